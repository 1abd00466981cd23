"""What the serving process asks a worker to compare."""

from dataclasses import dataclass

from services.common.answers.answer_types import AnswerType
from services.reward.extraction import Profile


@dataclass(frozen=True)
class ComparisonRequest:
    """Two normalised answers, and what selects the rules of their comparison."""

    reference_answer: str
    answer: str
    kind: AnswerType
    """Type of the reference answer."""
    profile: Profile
