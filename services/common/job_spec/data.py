"""How the rows of data files are read."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from services.common.data.mapping import Source
from services.common.data.reading import Reading, Split
from services.common.data.row_filter import RowFilter
from services.common.diffusion.config import Frozen
from services.common.job_spec.notes import notes


def _require_source(expression: str) -> str:
    Source(expression)
    return expression


def _require_condition(expression: str) -> str:
    RowFilter(expression)
    return expression


Expression = Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_require_source)]


MappedPart = Expression | float


class FieldsSpec(Frozen):
    """Where the parts of a row are: a field (`query`, `turns.0.text`), a template (`{question}
    {hint?}`, where `?` marks a field that rows may lack), or a constant (a number, or a text in
    single quotes). Parts that are not named are recognised by the layouts of well-known data sets.
    """

    prompt: MappedPart | None = None
    """Problem of the last user turn, or a list of turns that ends with it."""
    system: MappedPart | None = None
    """Text of the system turn, for rows that have none."""
    messages: Expression | None = None
    """List of turns; a last assistant turn is the completion."""
    completion: MappedPart | None = None
    """Response that SFT trains on."""
    reference: MappedPart | None = None
    """Reference answer that graders compare with."""
    weight: MappedPart | None = None
    """Weight of the row in the SFT loss, from 0."""

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if self.prompt is not None and self.messages is not None:
            raise ValueError("prompt and messages exclude each other; name one of them")
        return self

    def sources(self) -> dict[str, Source | float]:
        """The parts that are named, with their sources or constant numbers."""
        parts = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {
            name: Source(part) if isinstance(part, str) else part
            for name, part in parts
            if part is not None
        }


class DataSpec(Frozen):
    """How the rows of every file of the job are read."""

    fields: FieldsSpec = FieldsSpec()
    filter: Annotated[str, AfterValidator(_require_condition)] | None = None
    """Condition on the fields of a row, such as `difficulty >= 3 and source != "synthetic"`. None
    takes all rows.
    """
    max_rows: int | None = Field(None, gt=0, json_schema_extra=notes(unit="rows"))
    """Rows of a file that are read: the first ones that the filter takes. None reads all."""
    split_validation: float | None = Field(None, gt=0, lt=1)
    """Share of the rows of `training_file` that validate and are not trained on, in place of a
    `validation_file`. Drawn with `seed`; equal rows are on the same side. None splits nothing.
    """

    def reading(self, split: Split | None = None) -> Reading:
        """How a file is read."""
        return Reading(self.fields.sources(), self.filter, self.max_rows, split)
