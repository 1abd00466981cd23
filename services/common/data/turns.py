"""Convert rows of a data file to the turns of a prompt."""

from collections.abc import Sequence
from typing import Final

from services.common.data.conversations import THINK, Message
from services.common.job_spec import PromptSpec

PLACEHOLDER: Final = "{prompt}"
"""Placeholder of the problem in `prompt.template`."""


def messages_of(messages: Sequence[Message], prompt: PromptSpec) -> list[dict[str, str]]:
    """Return the turns of a prompt: a last user turn in the template, after the system turn."""
    turns = [{"role": message.role, "content": message.content} for message in messages]
    if turns[-1]["role"] == "user":
        content = prompt.template.replace(PLACEHOLDER, turns[-1]["content"])
        turns[-1] = {**turns[-1], "content": content}
    if prompt.system is not None and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": prompt.system})
    return turns


def continue_prompt(prompt: str, completion: str) -> str:
    """Return the completion without the think tag that the rendered prompt has opened already."""
    opened = prompt.rstrip()
    thought = completion.lstrip()
    if not opened.endswith(THINK) or not thought.startswith(THINK):
        return completion
    rest = thought.removeprefix(THINK)
    return rest.removeprefix(prompt[len(opened) :])
