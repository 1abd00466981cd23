"""Uploaded files."""

from typing import Literal

from pydantic import AliasChoices, BaseModel, Field

from services.api.schemas.base import UnixSeconds, View


class GoldProblem(BaseModel):
    """A gold answer that cannot be used as it is."""

    row: int
    gold: str
    type: str
    reason: str


class GoldSummary(BaseModel):
    """The gold answers of a file."""

    types: dict[str, int]
    """Rows by type of gold answer."""
    audited: int
    """Rows whose gold answer was verified against itself; fewer than all when there are too many,
    or when the reward service did not respond.
    """
    num_invalid: int
    """Rows whose gold answer no response could match; reinforcement and evaluation refuse the
    file.
    """
    num_flagged: int
    """Rows whose gold answer is compared by its spelling alone."""
    invalid: list[GoldProblem]
    """The first ones."""
    flagged: list[GoldProblem]
    """The first ones."""


class FileView(View):
    """An uploaded file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int = Field(validation_alias=AliasChoices("num_bytes", "bytes"))
    created_at: UnixSeconds
    filename: str
    purpose: str
    rows: int = Field(validation_alias=AliasChoices("num_rows", "rows"))
    sha256: str
    golds: GoldSummary | None = None
    """Its gold answers by type, and which cannot be used; null without any."""


class DeletedFile(View):
    """A deleted file."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True
