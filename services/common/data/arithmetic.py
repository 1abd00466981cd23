"""Arithmetic word problems with known answers: small enough for a character-level model on a CPU."""

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.common.errors import PlatformError

# All words of a slot have the same length, so that operands have fixed positions, which a small
# model learns in minutes.
_NAMES: Final = ("Tom", "Ann", "Ben", "Eva", "Sam", "Mia", "Leo", "Zoe")
_THINGS: Final = ("figs", "nuts", "eggs", "pies", "buns", "yams", "tofu", "rice")
_VERBS: Final = ("got", "won", "dug")
_OPERANDS: Final = range(10, 100)
_MAX_TEST_PAIR_SHARE: Final = 0.2

Pair = tuple[int, int]


@dataclass(frozen=True)
class ArithmeticFiles:
    """The two files of one generated data set; no pair of operands occurs in both."""

    train: Path
    test: Path


def make_arithmetic(path_dir: Path, *, seed: int, num_train: int, num_test: int) -> ArithmeticFiles:
    r"""Write `train.jsonl` and `test.jsonl` into the directory; equal arguments give equal bytes.

    Rows are {"id","prompt","completion","answer"}, e.g. "Tom had 27 figs, got 45" with the
    completion "27+45=\boxed{72}". Prompts are 23 characters long, completions at most 19. A fifth
    of the unordered pairs of two-digit operands is reserved for the test file. Raises
    PlatformError("invalid_request") for counts below 1.
    """
    if num_train < 1 or num_test < 1:
        raise PlatformError(
            "invalid_request",
            f"Cannot create {num_train} training and {num_test} test problems; both must be at least 1.",
        )
    pairs = list(itertools.combinations_with_replacement(_OPERANDS, 2))
    random.Random(f"{seed}-pairs").shuffle(pairs)
    reserved = int(len(pairs) * _MAX_TEST_PAIR_SHARE)
    path_dir.mkdir(parents=True, exist_ok=True)
    files = ArithmeticFiles(train=path_dir / "train.jsonl", test=path_dir / "test.jsonl")
    _write(files.train, _make_rows("train", seed, pairs[reserved:], num_train))
    _write(files.test, _make_rows("test", seed, pairs[:reserved], num_test))
    return files


def _make_rows(
    split: str, seed: int, pairs: Sequence[Pair], count: int
) -> Iterator[dict[str, str]]:
    """Yield rows that use every pair once before repeating one."""
    rng = random.Random(f"{seed}-{split}")
    for index, pair in zip(range(count), itertools.cycle(pairs), strict=False):
        a, b = rng.sample(pair, 2)
        yield {
            "id": f"arithmetic-{split}-{seed}-{index:06d}",
            "prompt": f"{rng.choice(_NAMES)} had {a} {rng.choice(_THINGS)}, {rng.choice(_VERBS)} {b}",
            "completion": f"{a}+{b}=\\boxed{{{a + b}}}",
            "answer": str(a + b),
        }


def _write(path: Path, rows: Iterator[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
