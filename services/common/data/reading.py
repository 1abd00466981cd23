"""How a file of a job is read: where its parts are, and which of its rows are taken."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from services.common.data.fields import Part

_DIGEST_RANGE: Final = 2.0**64


@dataclass(frozen=True)
class Split:
    """One side of a file that is divided into training and validation rows."""

    side: Literal["train", "validation"]
    validation_share: float
    seed: int

    def takes(self, row_id: str) -> bool:
        """Whether the row is on this side; equal rows are on the same side."""
        digest = hashlib.sha256(f"{self.seed}:{row_id}".encode()).digest()
        drawn = int.from_bytes(digest[:8], "big") / _DIGEST_RANGE
        return (drawn < self.validation_share) == (self.side == "validation")


@dataclass(frozen=True)
class Reading:
    """How the rows of a file are read and selected."""

    fields: Mapping[str, Part] = field(default_factory=dict)
    """Where the parts are that `data.fields` names; the others are recognised."""
    filter: str | None = None
    """Condition on the fields of a row."""
    max_rows: int | None = None
    """Rows that are read after the filter."""
    split: Split | None = None


AS_IT_IS: Final = Reading()
"""All rows, by the layouts of well-known data sets."""
