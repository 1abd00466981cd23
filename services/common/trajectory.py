"""The vocabulary of the data plane: prompt task, response, verdict, trajectory, scored group. Frozen;
arrays are never altered.

Legend: P prompt tokens, R response tokens (P + R is a whole number of blocks), B block length.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.common.diffusion.config import DecodingConfig

Int32s = NDArray[np.int32]
Float32s = NDArray[np.float32]


class Outcome(StrEnum):
    """How a response was graded."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    NO_ANSWER = "no_answer"
    TRUNCATED = "truncated"
    TOO_COMPLEX = "too_complex"
    SCORED = "scored"
    """Not compared with a reference answer: no grader asks for that, or the row has none."""
    UNVERIFIABLE = "unverifiable"
    ABORTED = "aborted"

    @property
    def is_scored(self) -> bool:
        """Whether the outcome carries a number; the others leave the group's statistics."""
        return self not in (Outcome.UNVERIFIABLE, Outcome.ABORTED)


class Purpose(StrEnum):
    """What a prompt was issued for."""

    TRAIN = "train"
    EVAL = "eval"


class FinishReason(StrEnum):
    """Why decoding ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORTED = "aborted"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The grade of one response."""

    outcome: Outcome
    reason: str = ""
    """Machine-readable cause; empty when the outcome says all."""
    extracted: str = ""
    extraction_method: str = ""
    normalized_reference_answer: str = ""
    normalized_answer: str = ""
    compare_path: str = "none"
    """string | integer | rational | sympy | none"""
    cpu_ms: float = 0.0
    wall_ms: float = 0.0
    queue_ms: float = 0.0
    verifier_version: str = ""
    rewards: dict[str, float] = field(default_factory=dict)
    """Score of each requested grader, by name; empty when the outcome is not scored."""
    grader_s: dict[str, float] = field(default_factory=dict)
    """The response's share of the wall time of each grader, in seconds, by name."""
    judge_tokens: float = 0.0
    """The response's share of the tokens that judges read and wrote."""
    explanations: dict[str, str] = field(default_factory=dict)
    """What graders say about their scores, by name: the result of each test of a program."""


@dataclass(frozen=True, kw_only=True)
class PromptTask:
    """One prompt to be answered by the rollout service."""

    job_id: str
    attempt: int
    group_id: str
    ledger_position: int
    """Place in the seeded prompt order (train) or in the evaluation set (eval)."""
    purpose: Purpose
    dataset: str
    """Evaluation set, or empty."""
    prompt_ids: Int32s
    """[P]"""
    reference_answer: str
    """Empty when the row has none."""
    num_generations: int
    seed: int
    """Key of the randomness, with ledger_position, response index, absolute position and step."""
    min_weight_version: int
    """A replica with older weights must not take this prompt."""
    decoding: DecodingConfig
    graders: tuple[str, ...]
    """services.common.grader_spec.grader_text of each."""
    grading_timeout_s: float
    issued_at: float
    """Unix seconds."""
    answer_type: str = ""
    """services.common.answers.answer_types.AnswerType; empty lets the reference answer's text say it."""
    row: str = "{}"
    """JSON object of the row, as graders see it (services.common.data.rows.Row.item)."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Candidates that denoising steps sampled and did not commit, C of them."""

    position: Int32s
    """[C] response token that was sampled for."""
    step: Int32s
    """[C] denoising step, as in `unmask_step`."""
    token_ids: Int32s
    """[C]"""
    logprobs: Float32s
    """[C] log-probability in the state of that step; after temperature and bans."""


NO_CANDIDATES: Final = Candidates(
    position=np.zeros(0, np.int32),
    step=np.zeros(0, np.int32),
    token_ids=np.zeros(0, np.int32),
    logprobs=np.zeros(0, np.float32),
)


@dataclass(frozen=True, kw_only=True)
class Response:
    """One sampled response, exactly as the model produced it: what an engine returns and what the
    learner trains on.
    """

    token_ids: Int32s
    """[R] whole blocks: tokens sampled after the end, inside its block, are kept (later commits
    depended on them).
    """
    unmask_step: Int32s
    """[R] denoising step at which the token was committed, from 1, counted over the response."""
    logprobs: Float32s
    """[R] log-probability of the token in the state it was committed from, after
    temperature and bans.
    """
    confidences: Float32s
    """[R] confidence of the position when it was committed."""
    visible_len: int
    """Response tokens up to and including the end token; R when none was produced."""
    finish_reason: FinishReason
    num_forwards: int
    """Denoising and commit forwards; the prefill, which a group shares, is not counted."""
    rejected: Candidates = NO_CANDIDATES
    """Empty unless the decoding records candidates."""

    @property
    def num_steps(self) -> int:
        """Denoising steps."""
        return int(self.unmask_step.max(initial=0))

    @property
    def visible_ids(self) -> Int32s:
        """Tokens up to and including the end token."""
        return self.token_ids[: self.visible_len]

    @property
    def is_aborted(self) -> bool:
        """Whether decoding was abandoned: length and speed of the response then say nothing."""
        return self.finish_reason is FinishReason.ABORTED


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """A response with the weights that produced it and, once it is graded, its text and verdict."""

    trajectory_id: str
    response_index: int
    weight_version: int
    weight_digest: str
    response: Response
    text: str = ""
    """Text of the visible tokens, special tokens left out."""
    verdict: Verdict | None = None

    @property
    def outcome(self) -> Outcome:
        """Outcome of a graded response; raises ValueError for one that has no verdict."""
        if self.verdict is None:
            raise ValueError(f"trajectory {self.trajectory_id} of a scored group has no verdict")
        return self.verdict.outcome


@dataclass(frozen=True, kw_only=True)
class ScoredGroup:
    """The graded responses to one prompt, in the order of `response_index`.

    Refers to its prompt by id: the learner keeps the task it issued, so neither the prompt nor the
    decoding travels back.
    """

    group_id: str
    trajectories: tuple[Trajectory, ...]
    replica: str
    rollout_s: float
    """Seconds from taking the prompt to the last token."""
    reward_s: float
    """Seconds from the last token to the last verdict."""
    finished_at: float
    """Unix seconds."""

    @property
    def oldest_version(self) -> int:
        """Oldest weight version among the trajectories."""
        return min(trajectory.weight_version for trajectory in self.trajectories)
