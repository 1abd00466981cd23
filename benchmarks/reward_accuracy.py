"""How often verdicts are right: ours compared with math-verify, plain and with wrapped reference answers, in one run.

One JSON line per set and method: agreement with the labels, false accepts, false rejects. Sets: `verifier_cases`
(labelled by other projects), `rewrites` (tests/golden/reward_cases.jsonl), `policy` (written from docs/rewards.md),
`solutions` (published ones, with their own reference answer and another problem's).
Then for ours and wrapped math-verify: reference answers against themselves, changed ones (all must be rejected) and
rewrites that keep the meaning (all must be accepted). The lines with `disagreements` class every case on which ours
and wrapped math-verify differ by the type of its reference answer and by who is right, and list those on which
math-verify is. `paths` counts the methods that found our verdicts.

plain: `verify(parse(reference_answer), parse(answer))`, the documented call. wrapped: bare reference answers and
answers in `\\boxed{}`.
"""

import argparse
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from reward_inputs import Pair, data_dir, reference_answers_of

from services.common.answers.answer_types import AnswerType, infer_answer_type
from services.common.data.rows import iter_rows
from services.common.telemetry.logs import configure_logging
from services.common.trajectory import FinishReason, Outcome
from services.reward.extraction import Profile
from services.reward.pool import Pool, PoolConfig
from services.reward.verifier import Item, Verifier

ROOT = Path(__file__).resolve().parents[1]
SETS = ("math500/test.jsonl", "gsm8k/test.jsonl", "aime24/test.jsonl", "aime25/test.jsonl", "amc23/test.jsonl",
        "olympiadbench/test.jsonl", "svamp/test.jsonl", "gsm8k/train.jsonl")  # fmt: skip
MUTATED = ("math500/test.jsonl", "gsm8k/test.jsonl", "aime24/test.jsonl", "aime25/test.jsonl")
BOXED_FIRST = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
MAX_BARE_WORDS = 6

Grade = Callable[[Sequence[Pair]], list[bool]]


def plain(pairs: Sequence[Pair]) -> list[bool]:
    """As documented."""
    return [
        bool(verify(parse(reference_answer), parse(answer))) for reference_answer, answer in pairs
    ]


def wrapped(pairs: Sequence[Pair]) -> list[bool]:
    """As it must be called."""
    return [
        bool(
            verify(
                gold=parse(_wrap(reference_answer), BOXED_FIRST),
                target=parse(_wrap(answer), BOXED_FIRST),
            )
        )
        for reference_answer, answer in pairs
    ]


def _wrap(text: str) -> str:
    bare = (
        not re.search(r"\\boxed|\\fbox|\$|</think>", text) and len(text.split()) <= MAX_BARE_WORDS
    )
    return rf"\boxed{{{text}}}" if bare else text


PATHS: Counter[str] = Counter()
"""Methods that found our verdicts."""


def ours(pool: Pool, profile: Profile) -> Grade:
    """The service's verifier."""

    def grade(pairs: Sequence[Pair]) -> list[bool]:
        items = [
            Item(str(place), reference_answer, answer, FinishReason.STOP)
            for place, (reference_answer, answer) in enumerate(pairs)
        ]
        verifier = Verifier(pool, cache_size=1)
        verdicts = [
            verdict
            for start in range(0, len(items), 1024)
            for verdict in verifier.verify(
                items[start : start + 1024], [], profile, timeout_s=10.0, expires_at=math.inf
            )
        ]
        PATHS.update(verdict.compare_path for verdict in verdicts)
        return [verdict.outcome is Outcome.CORRECT for verdict in verdicts]

    return grade


def labelled(path: Path) -> list[dict[str, Any]]:
    """Cases with `reference answer`, `answer`, `expected`."""
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def report(name: str, method: str, graded: Sequence[bool], expected: Sequence[bool]) -> None:
    """One line."""
    pairs = list(zip(graded, expected, strict=True))
    agree = sum(one == other for one, other in pairs)
    line = {
        "set": name,
        "method": method,
        "total": len(pairs),
        "agree": agree,
        "accuracy": round(agree / len(pairs), 4) if pairs else None,
        "false_accepts": sum(one and not other for one, other in pairs),
        "false_rejects": sum(other and not one for one, other in pairs),
    }
    print(json.dumps(line), flush=True)


def compare(name: str, cases: list[dict[str, Any]], graders: dict[str, Grade]) -> None:
    """Every method on labelled cases, and where the last two differ."""
    pairs = [(case["gold"], case["answer"]) for case in cases]
    expected = [case["expected"] for case in cases]
    graded = {method: grade(pairs) for method, grade in graders.items()}
    for method, verdicts in graded.items():
        report(name, method, verdicts, expected)
    sides: dict[str, Counter[str]] = {}
    lost = []
    rows = zip(cases, expected, graded["wrapped"], graded["ours"], strict=True)
    for case, wanted, theirs, us in rows:
        if theirs is us:
            continue
        effect = "accept" if wanted else "reject"
        who = "ours" if us is wanted else "math-verify"
        kind = infer_answer_type(case["gold"])
        sides.setdefault(kind, Counter())[f"{who} right to {effect}"] += 1
        lost += [(case["gold"], case["answer"])] if theirs is wanted else []
    print(json.dumps({"set": name, "disagreements": sides, "lost": lost}), flush=True)


def solved_pairs() -> Iterator[tuple[str, str, bool]]:
    """Reference answer, solution, and whether the solution is of the same problem."""
    for name in ("math500/test.jsonl", "gsm8k/test.jsonl", "olympiadbench/test.jsonl"):
        solved = [
            (row.answer, row.completion)
            for row in iter_rows(data_dir() / name)
            if row.answer is not None and row.completion is not None
        ]
        for (own, solution), (other, _) in zip(solved, solved[1:] + solved[:1], strict=True):
            yield own, solution, True
            if other != own:
                yield other, solution, False


def mutations(reference_answers: Sequence[str], rng: random.Random) -> Iterator[Pair]:
    """A digit changed, the sign turned, another problem's reference answer."""
    for place, reference_answer in enumerate(reference_answers):
        digits = [match.start() for match in re.finditer(r"\d", reference_answer)]
        if digits:
            at = rng.choice(digits)
            other = rng.choice([digit for digit in "123456789" if digit != reference_answer[at]])
            yield reference_answer, reference_answer[:at] + other + reference_answer[at + 1 :]
        if infer_answer_type(reference_answer) in (
            AnswerType.INTEGER,
            AnswerType.RATIONAL,
        ) and re.search(r"[1-9]", reference_answer):
            yield (
                reference_answer,
                reference_answer[1:]
                if reference_answer.startswith("-")
                else f"-{reference_answer}",
            )
        another = reference_answers[(place + 1) % len(reference_answers)]
        if another.rpartition("=")[2].strip() != reference_answer.strip():  # `x=5` is 5
            yield reference_answer, another


def rewrites(reference_answer: str) -> Iterator[str]:
    """Spellings of the same answer."""
    kind, number = infer_answer_type(reference_answer), re.fullmatch(r"\d+", reference_answer)
    yield from (
        f"{reference_answer}.",
        rf"\text{{The answer is }}{reference_answer}",
        f"${reference_answer}$",
        reference_answer.replace(r"\frac", r"\dfrac"),
    )
    yield from (
        reference_answer.replace("(", r"\left(").replace(")", r"\right)")
        if r"\left" not in reference_answer
        else reference_answer,
    )
    if number:
        yield from (
            rf"\textbf{{{reference_answer}}}",
            rf"\mathbf{{{reference_answer}}}",
            rf"\text{{{reference_answer}}}",
            f"+{reference_answer}",
            f"0{reference_answer}",
            f"{reference_answer}.0",
        )
        yield from (
            f"x = {reference_answer}",
            rf"{reference_answer} \text{{ units}}",
            rf"{reference_answer}^\circ",
            rf"\${reference_answer}",
            f"{int(reference_answer):,}",
        )
        grouped = f"{int(reference_answer):,}"
        yield from (
            grouped.replace(",", sign) for sign in ("{,}", r"\,", r",\!", " ") if "," in grouped
        )
    if simple := re.fullmatch(r"(-?)\\frac\{(\d+)\}\{(\d+)\}", reference_answer):
        sign, top, bottom = simple.groups()
        yield from (
            f"{sign}{top}/{bottom}",
            f"{sign}({top})/({bottom})",
            rf"{sign}\frac{{{2 * int(top)}}}{{{2 * int(bottom)}}}",
        )
        yield f"{sign}{int(top) / int(bottom):.12f}"
    if re.search(r"\\sqrt\{\d+\}", reference_answer):
        yield from (
            re.sub(r"\\sqrt\{(\d+)\}", r"√\1", reference_answer),
            re.sub(r"\\sqrt\{(\d+)\}", r" sqrt(\1)", reference_answer),
        )
    if kind is AnswerType.TUPLE and reference_answer.startswith("("):
        yield from (
            (
                reference_answer.strip("()"),
                reference_answer.replace("(", r"\langle ").replace(")", r"\rangle"),
            )
            if reference_answer.count("(") == 1
            else ()
        )
    if (
        kind is AnswerType.EXPRESSION
        and re.search(r"\d[a-z](?![a-z])", reference_answer)
        and "\\" not in reference_answer
    ):
        yield re.sub(r"(\d)([a-z])(?![a-z])", r"\1*\2", reference_answer)
    if kind is AnswerType.MATRIX:
        yield reference_answer.replace("pmatrix", "bmatrix")


def self_and_changes(graders: dict[str, Grade], limit: int | None) -> None:
    """Reference answers against themselves, changed, and rewritten."""
    rng = random.Random(0)
    for name in SETS:
        pairs = [
            (reference_answer, rf"\boxed{{{reference_answer}}}")
            for reference_answer in reference_answers_of(name)[:limit]
        ]
        report(f"self:{name}", "ours", graders["ours"](pairs), [True] * len(pairs))
    for name in MUTATED:
        pairs = [
            (reference_answer, rf"\boxed{{{changed}}}")
            for reference_answer, changed in mutations(reference_answers_of(name)[:limit], rng)
        ]
        for method in ("wrapped", "ours"):
            verdicts = graders[method](pairs)
            report(f"changed:{name}", method, verdicts, [False] * len(pairs))
        accepted = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict]
        print(json.dumps({"set": f"changed:{name}", "accepted_by_ours": accepted}), flush=True)
    for name in ("math500/test.jsonl", "olympiadbench/test.jsonl"):
        pairs = [
            (reference_answer, rf"\boxed{{{text}}}")
            for reference_answer in reference_answers_of(name)[:limit]
            for text in rewrites(reference_answer)
        ]
        for method in ("wrapped", "ours"):
            verdicts = graders[method](pairs)
            report(f"rewritten:{name}", method, verdicts, [True] * len(pairs))
        refused = [pair for pair, accepted in zip(pairs, verdicts, strict=True) if not accepted]
        print(json.dumps({"set": f"rewritten:{name}", "refused_by_ours": refused}), flush=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="40 cases and reference answers of each set"
    )
    limit = 40 if parser.parse_args().quick else None
    configure_logging("benchmark", "error", "console")
    pool = Pool(PoolConfig(workers=2))
    pool.start()
    graders = {"plain": plain, "wrapped": wrapped, "ours": ours(pool, Profile.EVAL)}
    try:
        compare("verifier_cases", labelled(data_dir() / "verifier_cases.jsonl")[:limit], graders)
        compare("rewrites", labelled(ROOT / "tests/golden/reward_cases.jsonl")[:limit], graders)
        policy = labelled(ROOT / "tests/golden/reward_policy_cases.jsonl")
        # math-verify knows no problem, which decides about letter case.
        strict = [
            case for case in policy if case["profile"] == Profile.RL and "prompt" not in case
        ][:limit]
        compare("policy", strict, {**graders, "ours": ours(pool, Profile.RL)})
        solutions = [
            {"gold": gold, "answer": answer, "expected": own}
            for gold, answer, own in solved_pairs()
        ][:limit]
        compare("solutions", solutions, graders)
        self_and_changes({**graders, "ours": ours(pool, Profile.RL)}, limit)
        print(json.dumps({"paths": PATHS}), flush=True)
    finally:
        pool.close()


if __name__ == "__main__":
    main()
