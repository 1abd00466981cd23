"""Convert rows of a data file to the turns of a prompt."""

from typing import Final

from services.common.data.rows import Row
from services.common.job_spec import PromptSpec

PLACEHOLDER: Final = "{prompt}"
"""Placeholder of the problem in `prompt.template`."""


def messages_of(row: Row, prompt: PromptSpec) -> list[dict[str, str]]:
    """Return the turns of a prompt: the last user turn in the template, after the system turn."""
    turns = [{"role": message.role, "content": message.content} for message in row.messages]
    turns[-1] = {**turns[-1], "content": prompt.template.replace(PLACEHOLDER, turns[-1]["content"])}
    if prompt.system is not None and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": prompt.system})
    return turns
