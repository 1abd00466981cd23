"""What is to be done, as a sequence of stages."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from services.common.diffusion.config import Frozen

MethodType = Literal["sft", "rl", "eval", "pipeline"]
Stage = Literal["sft", "rl", "eval"]
_METHOD_SYNONYMS = {"supervised": "sft", "reinforcement": "rl"}


class Method(Frozen):
    """Training method: OpenAI's object, or the plain string as shorthand."""

    type: Annotated[MethodType, BeforeValidator(lambda value: _METHOD_SYNONYMS.get(value, value))]
    """`sft` (or OpenAI's `supervised`), `rl` (or `reinforcement`), `eval`, or `pipeline`."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Stages in order, each starting from the weights of the last."""
        return ("sft", "rl", "eval") if self.type == "pipeline" else (self.type,)


def method_object(value: Any) -> Any:
    """A plain string as the object it stands for."""
    return {"type": value} if isinstance(value, str) else value
