r"""Verdicts about the reference answers of public data sets after rewrites whose effect is known.

Each reference answer is rewritten by rules of its type: some keep the value (`\frac{2(x)}{2}`, both
sides of an equation exchanged, `x > 2` for `(2,\infty)`), others change it (one more, letters in the
other case, brackets of an interval, the order of a tuple). All of the former must be accepted under
the profile `rl`, none of the latter. One JSON line per type, then the pairs that were graded wrongly.
"""

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from services.common.answers.answer_types import AnswerType, infer_answer_type
from services.common.answers.candidates import extract_reference
from services.common.answers.normalisation import Normalised, normalise
from services.common.answers.rationals import parse_rational
from services.common.answers.sequences import UNORDERED, parse_sequence
from services.common.data.rows import iter_rows
from services.common.telemetry.logs import configure_logging
from services.common.trajectory import FinishReason, Outcome
from services.reward.extraction import Profile
from services.reward.pool import Pool, PoolConfig
from services.reward.verifier import Item, Verifier

Rewrite = tuple[str, str]
"""Rule and answer."""
_VARIABLE = re.compile(r"(?<![\\a-zA-Z{])[a-zA-Z](?![a-zA-Z])")
_CONSTANTS = "eiEI"
_BATCH = 1024


def kept(reference: str) -> Iterator[Rewrite]:
    """Yield (rule, answer) pairs with the value of the reference answer."""
    kind, text = infer_answer_type(reference), _ungrouped(normalise(extract_reference(reference)))
    yield "spaced", f" {reference} "
    if kind in _KEPT:
        yield from _KEPT[kind](text)


def changed(reference: str) -> Iterator[Rewrite]:
    """Yield (rule, answer) pairs with another value."""
    kind, text = infer_answer_type(reference), _ungrouped(normalise(extract_reference(reference)))
    if kind in _CHANGED:
        yield from _CHANGED[kind](text)


def _keep_value(text: str) -> Iterator[Rewrite]:
    if _has_relation(text):
        return
    yield "doubled and halved", rf"\frac{{2({text})}}{{2}}"
    yield "one more and less", f"({text})+1-1"
    yield "named", f"Q={text}"
    yield "factor one", rf"1\cdot({text})"


def _change_value(text: str) -> Iterator[Rewrite]:
    yield from _in_other_case(text)
    if _has_relation(text) or r"\infty" in text:
        return
    yield "one more", f"({text})+1"
    yield "one less", f"({text})-1"
    yield "contradicted", rf"{text} \text{{ is wrong}}"
    yield "false equation", f"x=({text})+1={text}"
    yield "curve", f"x^2+y={text}"
    number = parse_rational(text)
    if number is None or number.value:
        yield "doubled", f"2({text})"
        yield "negative", f"-({text})"


def _keep_list(text: str) -> Iterator[Rewrite]:
    sequence = parse_sequence(text)
    if sequence and "=" not in text:
        yield "reversed", ",".join(reversed(sequence.elements))


def _keep_tuple(text: str) -> Iterator[Rewrite]:
    sequence = parse_sequence(text)
    if sequence and len(sequence.elements) == 2 and sequence.brackets == "()":
        yield "named", f"x={sequence.elements[0]},y={sequence.elements[1]}"


def _change_list(text: str) -> Iterator[Rewrite]:
    sequence = parse_sequence(text)
    if sequence is None:
        return
    items = sequence.elements
    is_ordered = sequence.brackets != UNORDERED
    left, right = (sequence.brackets[0], sequence.brackets[1]) if is_ordered else ("", "")
    yield "one left out", f"{left}{','.join(items[1:])}{right}"
    yield "one more", f"{left}{','.join((*items, '987654'))}{right}"
    if is_ordered and items != items[::-1]:
        yield "reversed", f"{left}{','.join(reversed(items))}{right}"


def _keep_interval(text: str) -> Iterator[Rewrite]:
    bounds = parse_sequence(text)
    if bounds is None or len(bounds.elements) != 2:
        return
    low, high = bounds.elements
    below = "<" if bounds.brackets[0] == "(" else r"\le"
    above = "<" if bounds.brackets[1] == ")" else r"\le"
    if "infty" in high and "infty" not in low:
        yield "condition", f"{low} {below} x"
    elif "infty" in low and "infty" not in high:
        yield "condition", f"x {above} {high}"
    elif "infty" not in low + high:
        yield "condition", f"{low} {below} x {above} {high}"
        yield "set", rf"\{{x : {low} {below} x {above} {high}\}}"


def _change_interval(text: str) -> Iterator[Rewrite]:
    bounds = parse_sequence(text)
    if bounds is None or len(bounds.elements) != 2:
        return
    if "infty" not in bounds.elements[0]:
        yield "lower bracket", f"{'[' if bounds.brackets[0] == '(' else '('}{text[1:]}"
    if "infty" not in bounds.elements[1]:
        yield "upper bracket", f"{text[:-1]}{']' if bounds.brackets[1] == ')' else ')'}"


def _keep_equation(text: str) -> Iterator[Rewrite]:
    left, _, right = text.partition("=")
    # `f(x)` is a product where it does not stand at the start of a definition.
    if text.count("=") == 1 and not re.search(r"^[a-zA-Z] ?\(", left):
        yield "exchanged", f"{right}={left}"
        if "," not in text:
            yield "doubled", f"2({left})=2({right})"


def _change_equation(text: str) -> Iterator[Rewrite]:
    yield from _in_other_case(text)
    left, _, right = text.partition("=")
    if text.count("=") == 1 and "," not in text:
        yield "one more", f"{left}={right}+1"
        yield "inequality", f"{left}<{right}"
        yield "truth", "0=0"


def _change_matrix(text: str) -> Iterator[Rewrite]:
    if cell := re.search(r"-?\d+", text):
        yield "one cell", f"{text[: cell.start()]}987654{text[cell.end() :]}"


def _change_words(text: str) -> Iterator[Rewrite]:
    yield "backwards", text[::-1] if text.lower() != text[::-1].lower() else f"{text}x"
    yield "denied", rf"\text{{not {text}}}"


def _change_choice(text: str) -> Iterator[Rewrite]:
    yield "next letter", chr((ord(text.strip("()")) - ord("A") + 1) % 10 + ord("A"))


def _in_other_case(text: str) -> Iterator[Rewrite]:
    for match in _VARIABLE.finditer(text):
        letter = match.group()
        if letter not in _CONSTANTS:
            yield "other case", text[: match.start()] + letter.swapcase() + text[match.end() :]
            return


_Rule = Callable[[str], Iterator[Rewrite]]
_KEPT: dict[AnswerType, _Rule] = {
    AnswerType.INTEGER: _keep_value,
    AnswerType.RATIONAL: _keep_value,
    AnswerType.PERCENT: _keep_value,
    AnswerType.EXPRESSION: _keep_value,
    AnswerType.LIST: _keep_list,
    AnswerType.TUPLE: _keep_tuple,
    AnswerType.INTERVAL: _keep_interval,
    AnswerType.EQUATION: _keep_equation,
    AnswerType.MATRIX: lambda text: iter((("brackets", text.replace("pmatrix", "bmatrix")),)),
    AnswerType.TEXT: lambda text: iter((("in text", rf"\text{{{text.upper()}}}"),)),
    AnswerType.CHOICE: lambda text: iter((("in brackets", f"({text.strip('()')})"),)),
    AnswerType.BASE_N: lambda text: iter((("braces", re.sub(r"_\{?(\d+)\}?", r"_{\1}", text)),)),
}
_CHANGED: dict[AnswerType, _Rule] = {
    AnswerType.INTEGER: _change_value,
    AnswerType.RATIONAL: _change_value,
    AnswerType.PERCENT: _change_value,
    AnswerType.EXPRESSION: _change_value,
    AnswerType.LIST: _change_list,
    AnswerType.TUPLE: _change_list,
    AnswerType.INTERVAL: _change_interval,
    AnswerType.EQUATION: _change_equation,
    AnswerType.MATRIX: _change_matrix,
    AnswerType.TEXT: _change_words,
    AnswerType.CHOICE: _change_choice,
    AnswerType.BASE_N: lambda text: iter((("no base", text.partition("_")[0]),)),
}


def _ungrouped(normal: Normalised) -> str:
    """Return the text, of a number without separators, which an expression cannot have."""
    return normal.text.replace(",", "") if parse_rational(normal.text) else normal.text


def _has_relation(text: str) -> bool:
    return bool(
        re.search(r"[=<>:]|\\(?:le|ge|ne|in|equiv|approx|pm|mp)(?![a-z])|\\text|\\ldots", text)
    )


def reference_answers(directory: Path) -> list[str]:
    """Return the distinct reference answers of the data sets in a directory, in order."""
    paths = sorted(directory.glob("*/*.jsonl"))
    return list(
        dict.fromkeys(row.answer for path in paths for row in iter_rows(path) if row.answer)
    )


def grade(pool: Pool, pairs: list[tuple[str, str]]) -> list[bool]:
    """Return which of the (reference answer, answer) pairs are accepted under `rl`."""
    verifier = Verifier(pool, cache_size=1)
    items = [
        Item(str(place), reference, rf"\boxed{{{answer}}}", FinishReason.STOP)
        for place, (reference, answer) in enumerate(pairs)
    ]
    return [
        verdict.outcome is Outcome.CORRECT
        for start in range(0, len(items), _BATCH)
        for verdict in verifier.verify(
            items[start : start + _BATCH], [], Profile.RL, timeout_s=10.0, expires_at=math.inf
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="data sets, as DATA_SET/*.jsonl")
    arguments = parser.parse_args()
    configure_logging("benchmark", "error", "console")
    pool = Pool(PoolConfig(workers=2, min_cpu_share=0.0))
    pool.start()
    references = reference_answers(arguments.directory)
    wrong: list[dict[str, str]] = []
    for name, rewrite, expected in (("kept", kept, True), ("changed", changed, False)):
        rows = [
            (infer_answer_type(reference), rule, reference, answer)
            for reference in references
            for rule, answer in rewrite(reference)
        ]
        accepted = grade(pool, [(reference, answer) for _, _, reference, answer in rows])
        totals, good = Counter[str](), Counter[str]()
        for (kind, rule, reference, answer), one in zip(rows, accepted, strict=True):
            totals[kind] += 1
            good[kind] += one is expected
            if one is not expected:
                wrong.append(
                    {"effect": name, "rule": rule, "reference": reference, "answer": answer}
                )
        for kind in AnswerType:
            if totals[kind]:
                line = {"effect": name, "type": kind, "total": totals[kind], "right": good[kind]}
                print(json.dumps(line), flush=True)
        print(
            json.dumps({"effect": name, "total": totals.total(), "right": good.total()}), flush=True
        )
    pool.close()
    for pair in wrong:
        print(json.dumps(pair))


if __name__ == "__main__":
    main()
