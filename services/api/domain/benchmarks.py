"""The published evaluation of block-diffusion models on mathematics: protocol, benchmarks, and what
was reported.

Sources: the DiRL paper (arXiv 2512.22234), Table 1, and its standalone evaluation script. Not
reproduced: that forbids the end of a response before 128 tokens and the end-of-text token at any
time, and counts a response that ran out of tokens as correct when it has a right box; here that one
is `truncated`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

BENCHMARKS: Final[Mapping[str, str]] = {
    "MATH500": "math500/test.jsonl",
    "GSM8K": "gsm8k/test.jsonl",
    "AIME24": "aime24/test.jsonl",
    "AIME25": "aime25/test.jsonl",
    "OlympiadBench": "olympiadbench/test.jsonl",
}
"""Name to file below the data directory, in the order of the table."""
CODE_BENCHMARKS: Final[Mapping[str, str]] = {
    "HumanEval+": "humanevalplus/test.jsonl",
    "MBPP+": "mbppplus/test.jsonl",
    "LiveCodeBench": "livecodebench/test.jsonl",
    "APPS": "apps/test.jsonl",
}
"""Benchmarks whose responses are programs, which the `code` grader runs; no published row is compared."""
DECODING: Final[Mapping[str, Mapping[str, Any]]] = {
    "static": {"unmasking_strategy": "low_confidence_static"},
    "dynamic": {"unmasking_strategy": "low_confidence_dynamic", "confidence_threshold": 0.9},
}
"""One token per step; or all that are confident enough."""
PROMPT: Final = (
    "{prompt}\nPlease reason step by step, and put your final answer within $\\boxed{}$."
)
CODE_PROMPT: Final = "{prompt}\n\nWrite the program in Python, in one code block."
MAX_PROMPT_TOKENS: Final = 1024
MAX_NEW_TOKENS: Final = 8192


@dataclass(frozen=True)
class Reported:
    """A row of Table 1."""

    model: str
    decoding: str
    """static | dynamic | ar, which is left to right."""
    scores: tuple[tuple[float, float, float], ...]
    """Accuracy in per cent (avg@16), tokens per step and mean response length, in the order of
    BENCHMARKS.
    """
    average: float


REPORTED: Final = (
    Reported("Qwen2.5-7B-Instruct", "ar", (
        (73.8, 1.0, 628.1), (89.8, 1.0, 308.9), (9.0, 1.0, 1005.5), (5.6, 1.0, 970.5), (36.6, 1.0, 862.0)), 42.9),
    Reported("Qwen2.5-32B-Instruct", "ar", (
        (81.1, 1.0, 554.6), (94.0, 1.0, 291.2), (12.9, 1.0, 831.7), (11.9, 1.0, 839.7), (45.7, 1.0, 742.4)), 49.1),
    Reported("SDAR-8B-Chat", "static", (
        (71.5, 1.0, 603.4), (89.5, 1.0, 712.9), (5.6, 1.0, 1342.4), (8.5, 1.0, 920.8), (35.6, 1.0, 890.4)), 42.2),
    Reported("SDAR-8B-Chat", "dynamic", (
        (71.9, 2.4, 616.6), (89.9, 2.8, 708.8), (9.2, 2.4, 1274.2), (9.4, 2.1, 889.8), (36.0, 2.4, 896.4)), 43.3),
    Reported("TraDo-8B-Instruct", "static", (
        (76.7, 1.0, 618.1), (90.4, 1.0, 324.7), (11.5, 1.0, 1036.1), (13.5, 1.0, 988.0), (40.2, 1.0, 864.3)), 46.5),
    Reported("TraDo-8B-Instruct", "dynamic", (
        (75.6, 2.3, 618.6), (91.1, 2.1, 315.2), (11.7, 2.0, 1091.4), (15.0, 1.9, 996.2), (40.3, 2.1, 868.0)), 46.7),
    Reported("DiRL-8B-Instruct", "static", (
        (85.1, 1.0, 1917.2), (93.1, 1.0, 707.4), (21.5, 1.0, 5434.2), (22.9, 1.0, 5019.0), (47.3, 1.0, 3556.4)), 54.0),
    Reported("DiRL-8B-Instruct", "dynamic", (
        (83.1, 2.0, 2000.7), (93.0, 2.2, 730.1), (20.6, 1.7, 5468.5), (20.8, 1.7, 5129.6), (46.4, 1.8, 3614.5)), 52.8),
)  # fmt: skip


def benchmark_spec(name: str, model: str, validation_file: str, decoding: str) -> dict[str, Any]:
    """Job spec of one benchmark under the published protocol; code differs in prompt and grader."""
    is_code = name in CODE_BENCHMARKS
    return {
        "model": model,
        "method": "eval",
        "validation_file": validation_file,
        "suffix": f"eval-{decoding}",
        "prompt": {
            "template": CODE_PROMPT if is_code else PROMPT,
            "max_prompt_tokens": MAX_PROMPT_TOKENS,
        },
        **({"reward": {"graders": ["code"]}} if is_code else {}),
        # The engine of the published results compares the probability of the sampled candidate.
        "diffusion": {**DECODING[decoding], "selection": "sampled"},
        "eval": {
            "num_generations": 16,
            "temperature": 1.0,
            "top_k": 50,
            "max_new_tokens": MAX_NEW_TOKENS,
        },
        "trainer": {"seq_len": MAX_PROMPT_TOKENS + MAX_NEW_TOKENS, "precision": "bf16"},
    }
