"""The journal: numbered without gaps, readable from anywhere, independent of the stream."""

import json
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import PlatformError
from services.common.events import Event, EventType
from services.trainer.learner.journal import Journal, journal_path, last_seq, read_events


class Stream:
    """Takes events unless it is away."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.attempts = 0
        self.away = False

    def send(self, event: Event) -> None:
        self.attempts += 1
        if self.away:
            raise PlatformError("queue_unavailable", "The stream is away.")
        self.events.append(event)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def filled(directory: Path, count: int, padding: int = 0) -> list[str]:
    """A journal of that many events; its lines."""
    journal = Journal(directory, "job_1", 1, Stream())
    for number in range(count):
        journal.emit(EventType.METRICS, {"step": number, "values": {"x": "y" * (padding * number)}})
    journal.close()
    return journal_path(directory, 1).read_text().splitlines()


def numbers(texts: list[str]) -> list[int]:
    return [json.loads(text)["seq"] for text in texts]


def test_events_are_numbered_from_one_and_sent_in_order(tmp_path: Path) -> None:
    stream = Stream()

    with closing(Journal(tmp_path, "job_1", 3, stream)) as journal:
        journal.emit(EventType.PHASE, {"phase": "loading"})
        journal.say("warning", "rows_too_long", "2 rows were dropped.", dropped=2)

    assert [event.seq for event in stream.events] == [1, 2]
    assert [
        Event.model_validate_json(text) for text in read_events(tmp_path, 3, 0, 0)
    ] == stream.events
    assert stream.events[1].data == {
        "level": "warning", "code": "rows_too_long", "message": "2 rows were dropped.", "dropped": 2
    }  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(count=st.integers(0, 60), after=st.integers(0, 70), limit=st.integers(0, 20))
def test_any_part_of_a_journal_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, count: int, after: int, limit: int
) -> None:
    directory = tmp_path_factory.mktemp("job")
    lines = filled(directory, count, padding=7)

    assert read_events(directory, 1, after, limit) == lines[after : after + (limit or 1000)]
    assert last_seq(directory, 1) == count


def test_lines_longer_than_a_read_are_found_too(tmp_path: Path) -> None:
    lines = filled(tmp_path, 6, padding=50_000)

    assert [read_events(tmp_path, 1, after, 1) for after in range(6)] == [[line] for line in lines]
    assert last_seq(tmp_path, 1) == 6


def test_an_answer_is_bounded_and_the_rest_comes_with_the_next_one(tmp_path: Path) -> None:
    filled(tmp_path, 12, padding=1_000_000)  # 66 MB

    first = read_events(tmp_path, 1, 0, 0)
    second = read_events(tmp_path, 1, len(first), 0)

    assert sum(map(len, first)) <= 32 << 20
    assert numbers(first + second) == list(range(1, len(first) + len(second) + 1))
    assert len(second) > 0


def test_an_event_that_is_still_being_written_is_left_for_the_next_call(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    path = journal_path(tmp_path, 1)
    whole = path.read_text()
    path.write_text(whole + '{"job_id":"job_1","attempt":1,"se')

    assert numbers(read_events(tmp_path, 1, 0, 0)) == [1, 2, 3]
    assert read_events(tmp_path, 1, 3, 0) == []
    assert last_seq(tmp_path, 1) == 3


def test_an_attempt_without_a_journal_has_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path, 1, 0, 0) == []
    assert last_seq(tmp_path, 1) == 0


def test_a_stream_that_is_away_loses_no_event_of_the_journal(tmp_path: Path) -> None:
    stream, clock = Stream(), Clock()
    with closing(Journal(tmp_path, "job_1", 1, stream, monotonic=clock)) as journal:
        stream.away = True
        for step in range(5):
            journal.emit(EventType.METRICS, {"step": step, "values": {}})
        attempts_while_away = stream.attempts
        stream.away, clock.now = False, clock.now + 10
        journal.emit(EventType.METRICS, {"step": 5, "values": {}})

    assert numbers(read_events(tmp_path, 1, 0, 0)) == [1, 2, 3, 4, 5, 6]
    assert [event.seq for event in stream.events] == [6]
    assert attempts_while_away == 1


def test_an_attempt_is_journalled_once(tmp_path: Path) -> None:
    Journal(tmp_path, "job_1", 1, Stream()).close()

    with pytest.raises(PlatformError) as caught:
        Journal(tmp_path, "job_1", 1, Stream())
    assert caught.value.code == "stale_attempt"


def test_a_number_that_is_not_finite_does_not_break_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "job_1", 1, Stream())
    journal.emit(EventType.METRICS, {"step": 1, "values": {"reward/std": float("nan")}})
    journal.close()

    (text,) = read_events(tmp_path, 1, 0, 0)
    assert Event.model_validate_json(text).data["values"] == {"reward/std": None}
