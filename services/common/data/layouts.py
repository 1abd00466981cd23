r"""How the rows of well-known data sets name their prompt, completion and reference answer.

Names match whatever their case. Layouts of one group that fit a row must agree, up to white space; the
first group that fits decides. What differs from row to row of a data set, or is ambiguous, is not here:
`data.fields` of a job spec says it in the same language (`mapping.py`).
"""

from functools import lru_cache
from typing import Final

from services.common.data.mapping import Source

_KEPT: Final = 256


class Group:
    """Layouts of one part of a row, each with the data sets that have it."""

    def __init__(self, *layouts: tuple[str, str]) -> None:
        self._sources = tuple(Source(expression) for expression, _ in layouts)
        # Most rows of a file have the same fields.
        self.find_present = lru_cache(_KEPT)(self._find_present)

    def _find_present(self, names: frozenset[str]) -> tuple[Source, ...]:
        """Return the layouts whose fields are among the names, without those that another one includes."""
        present = [
            source
            for source in self._sources
            if all(path in names or path.split(".")[0] in names for path in source.required)
        ]
        return tuple(
            source
            for source in present
            if not any(source.required < other.required for other in present)
        )


CONVERSATIONS: Final = ("messages", "conversations", "conversation", "prompt", "input")
"""Lists of turns: OpenAI, TRL, Tulu 3, UltraChat, no_robots; ShareGPT, SlimOrca, OpenThoughts; Capybara;
TRL and verl; Nemotron.
"""
PROMPT_TURNS: Final = frozenset({"prompt", "input"})
"""Of these, turns that only lead to the response: no turn of them is trained."""
PROMPTS: Final = (
    Group(
        ("prompt", "TRL, UltraFeedback, DAPO (processed), HumanEval"),
        ("{body} {question}", "SVAMP, ASDiv"),
        ("{context?}\n{instruction}\n\n{input?}", "Alpaca, Dolly, MathInstruct"),
        ("{context?}\n{question}", "GSM8K, OlympiadBench, DeepMath, Orca-Math, WebInstruct, MMLU"),
        ("question.problem", "PRM800K"),
        ("problem", "MATH, NuminaMath, OpenR1, Big-Math, DeepScaleR, Omni-MATH, AIME, OpenMath"),
        ("query", "MetaMath"),
        ("question_content", "LiveCodeBench"),
    ),
    Group(("input", "OpenCodeReasoning, Nemotron")),
)
SYSTEMS: Final = Group(
    ("system", "OpenThoughts, LLaMA-Factory"), ("system_prompt", "Orca, Nemotron")
)
COMPLETIONS: Final = (
    Group(
        ("completion", "TRL"),
        ("response", "MetaMath, Dolly"),
        ("output", "Alpaca, MathInstruct, Nemotron"),
    ),
    # A worked solution, or the bare answer.
    Group(
        ("solution", "MATH, NuminaMath, OlympiadBench, LIMO"),
        ("reference_solution", "NeMo-Skills"),
    ),
)
REFERENCES: Final = Group(
    ("answer", "MATH, OpenR1, Big-Math, DeepScaleR, WebInstruct, AIME"),
    ("ground_truth_answer", "dLLM-RL"),
    ("question.ground_truth_answer", "PRM800K"),
    ("expected_answer", "NeMo-Skills, OpenMath"),
    ("final_answer", "DeepMath, OlympiadBench"),
    ("final_ans", "MultiArith"),
    ("gold_answer", "DiRL"),
    ("ground_truth", "Tulu 3 RLVR"),
    ("gt_answer", "SimpleRL"),
    ("reference_answer", "OpenAI reinforcement items"),
    ("correct_answer", "SciQ"),
    ("correct answer", "GPQA"),
    ("answerkey", "ARC, CommonsenseQA"),
    ("correct", "AQuA"),
    ("reward_model.ground_truth", "verl, DAPO, Skywork-OR1"),
)
CHOICES: Final = ("choices", "options")
"""Answers to choose from: MMLU, ARC, AQuA."""
