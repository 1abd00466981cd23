"""Uploaded files."""

from typing import Literal

from pydantic import AliasChoices, BaseModel, Field

from services.api.schemas.base import UnixSeconds, View


class ReferenceAnswerProblem(BaseModel):
    """A reference answer that cannot be used as it is."""

    row: int
    reference_answer: str
    type: str
    reason: str


class ReferenceAnswerSummary(BaseModel):
    """The reference answers of a file."""

    types: dict[str, int]
    """Rows by type of reference answer."""
    audited: int
    """Rows whose reference answer was verified against itself; fewer than all when there are too many,
    or when the reward service did not respond.
    """
    num_invalid: int
    """Rows whose reference answer no response could match; reinforcement and evaluation refuse the
    file.
    """
    num_flagged: int
    """Rows whose reference answer is compared by its spelling alone."""
    invalid: list[ReferenceAnswerProblem]
    """The first ones."""
    flagged: list[ReferenceAnswerProblem]
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
    reference_answers: ReferenceAnswerSummary | None = None
    """Its reference answers by type, and which cannot be used; null without any."""
    layout_problems: tuple[str, ...] = ()
    """The first rows whose fields are not recognised, or are ambiguous. A job reads them with
    `data.fields`.
    """


class DeletedFile(View):
    """A deleted file."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True
