"""Grade a JSONL file of answers without a platform: `python -m services.reward.check FILE`, for
`dirl reward check`.

Each row is `{"reference_answer": …, "answer": …}`; the former may also be called `gold`. The optional
`expected` (true or false) is compared with the verdict; the optional `prompt` is the text of the
problem, which tells whether letter case matters.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.common.errors import PlatformError, Problem, ProblemsError
from services.common.telemetry.logs import configure_logging
from services.common.trajectory import FinishReason, Outcome, Verdict
from services.reward.extraction import Profile
from services.reward.pool import Pool, PoolConfig
from services.reward.settings import RewardSettings
from services.reward.verifier import Item, Verifier

_BATCH: Final = 1024
_MAX_PROBLEMS: Final = 20
_MAX_SHOWN: Final = 60
_MAX_RETRIES: Final = 3


@dataclass(frozen=True)
class Case:
    """One row of the file."""

    number: int
    """Line of the file, 1-based."""
    reference_answer: str
    answer: str
    expected: bool | None
    prompt: str = ""
    """Text of the problem; empty if unknown."""


def main() -> int:
    """Return exit status 0 if every row could be read, regardless of the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--profile", choices=list(Profile), default=Profile.EVAL.value)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    configure_logging("check", "warning", "console")
    try:
        cases = read_cases(arguments.file)
        started = time.monotonic()
        verdicts = grade_cases(cases, Profile(arguments.profile))
    except PlatformError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if arguments.verbose:
        for case, verdict in zip(cases, verdicts, strict=True):
            sys.stdout.write(_format_row(case, verdict, as_json=arguments.json) + "\n")
    sys.stdout.write(json.dumps(summary(cases, verdicts, time.monotonic() - started)) + "\n")
    return 0


def read_cases(path: Path) -> list[Case]:
    """Read the rows of the file; raises ProblemsError("dataset_invalid") that lists the invalid rows."""
    try:
        # Only line feeds end a row: JSON strings may hold other separators, such as U+2028.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PlatformError("dataset_invalid", f"Cannot read {path}: {error}.") from None
    read = [_parse_case(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    problems = [item for item in read if isinstance(item, Problem)]
    if problems or not read:
        problems = problems or [Problem(str(path), "the file has no rows")]
        what = f"Cannot grade the file {path}"
        raise ProblemsError("dataset_invalid", what, problems[:_MAX_PROBLEMS], total=len(problems))
    return [item for item in read if isinstance(item, Case)]


def _parse_case(number: int, line: str) -> Case | Problem:
    place = f"row {number}"
    try:
        row = json.loads(line)
    except ValueError as error:
        return Problem(place, f"is not valid JSON: {error}")
    if not isinstance(row, dict):
        return Problem(place, "must be an object")
    reference_answer = row.get("reference_answer", row.get("gold"))
    if not isinstance(reference_answer, str) or not isinstance(row.get("answer"), str):
        return Problem(place, "must have the strings reference_answer (or gold) and answer")
    if row.get("expected") not in (None, True, False):
        return Problem(place, f"expected is {row['expected']!r}; it must be true, false or omitted")
    if not isinstance(row.get("prompt", ""), str):
        return Problem(place, f"prompt is {row['prompt']!r}; it must be a string or omitted")
    return Case(number, reference_answer, row["answer"], row.get("expected"), row.get("prompt", ""))


def grade_cases(cases: Sequence[Case], profile: Profile) -> list[Verdict]:
    """Return the verdicts in order, computed with one worker per available core."""
    settings = RewardSettings()
    pool = Pool(PoolConfig(workers=settings.reward_workers))
    pool.start()
    try:
        verifier = Verifier(pool, cache_size=settings.reward_cache_size)
        items = [
            Item(
                str(case.number),
                case.reference_answer,
                case.answer,
                FinishReason.STOP,
                row={"prompt": case.prompt},
            )
            for case in cases
        ]
        return [
            verdict
            for start in range(0, len(items), _BATCH)
            for verdict in _grade_batch(
                verifier, items[start : start + _BATCH], profile, settings.reward_timeout_s
            )
        ]
    finally:
        pool.close()


def _grade_batch(
    verifier: Verifier, items: Sequence[Item], profile: Profile, timeout_s: float
) -> list[Verdict]:
    """Grade a batch; retry items that a busy machine could not grade in time, with twice the timeout."""
    verdicts = verifier.verify(items, [], profile, timeout_s=timeout_s, expires_at=math.inf)
    for _ in range(_MAX_RETRIES):
        late = [place for place, verdict in enumerate(verdicts) if verdict.reason == "overloaded"]
        timeout_s *= 2
        again = verifier.verify(
            [items[place] for place in late], [], profile, timeout_s=timeout_s, expires_at=math.inf
        )
        for place, verdict in zip(late, again, strict=True):
            verdicts[place] = verdict
    return verdicts


def summary(cases: Sequence[Case], verdicts: Sequence[Verdict], seconds: float) -> dict[str, Any]:
    """Count rows by outcome; `agree` counts the rows that match their `expected`, null if none has one."""
    stated = [
        (case.expected, verdict.outcome is Outcome.CORRECT)
        for case, verdict in zip(cases, verdicts, strict=True)
        if case.expected is not None
    ]
    counts = {
        outcome.value: sum(verdict.outcome is outcome for verdict in verdicts)
        for outcome in Outcome
        if outcome is not Outcome.ABORTED
    }
    agree = sum(expected == correct for expected, correct in stated) if stated else None
    return {"total": len(cases), "agree": agree, **counts, "seconds": round(seconds, 3)}


def _format_row(case: Case, verdict: Verdict, *, as_json: bool) -> str:
    agrees = (
        None if case.expected is None else case.expected == (verdict.outcome is Outcome.CORRECT)
    )
    if as_json:
        fields = (
            "reason",
            "extracted",
            "extraction_method",
            "normalized_reference_answer",
            "normalized_answer",
            "compare_path",
        )
        named = {name: getattr(verdict, name) for name in fields}
        return json.dumps(
            {"row": case.number, "outcome": verdict.outcome.value, "agrees": agrees, **named}
        )
    mark = {None: " ", True: "=", False: "!"}[agrees]
    why = f" ({verdict.reason})" if verdict.reason else ""
    texts = f"{_shorten(case.reference_answer)} | {_shorten(verdict.extracted or case.answer)}"
    return f"{case.number:>6} {mark} {verdict.outcome.value}{why}  {texts}"


def _shorten(text: str) -> str:
    """Return the text on one line, with everything that a terminal could not show or would obey escaped."""
    line = "".join(
        char if char.isprintable() else ascii(char)[1:-1] for char in " ".join(text.split())
    )
    return line if len(line) <= _MAX_SHOWN else line[: _MAX_SHOWN - 1] + "…"


if __name__ == "__main__":
    sys.exit(main())
