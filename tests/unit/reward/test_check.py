"""`dirl reward check` with texts that files and terminals treat specially."""

import json
from pathlib import Path

import pytest

from services.common.trajectory import Outcome, Verdict
from services.reward.check import Case, _format_row, read_cases


def test_only_a_line_feed_ends_a_row(tmp_path: Path) -> None:
    rows = [{"gold": "42", "answer": "42\u2028and\x85more"}, {"gold": "5", "answer": "5"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows), "utf-8")
    assert [(case.number, case.answer) for case in read_cases(path)] == [
        (1, "42\u2028and\x85more"),
        (2, "5"),
    ]


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("\ud800", r"\ud800"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\u202e42", r"\u202e42"),
        ("é=√2", "é=√2"),
    ],
)
def test_a_row_is_shown_without_what_a_terminal_would_obey(answer: str, shown: str) -> None:
    case, verdict = Case(1, "5", answer, None), Verdict(outcome=Outcome.INCORRECT)
    row = _format_row(case, verdict, as_json=False)
    assert row.endswith(f"5 | {shown}")
    row.encode()
    _format_row(case, verdict, as_json=True).encode()
