"""Ids of events, and the positions that cursors hold."""

import pytest

from services.api.domain.event_ids import parse_position, to_event_id
from services.common.errors import PlatformError


def test_an_event_id_holds_its_job_and_its_position() -> None:
    assert to_event_id("job_abc", 42) == "evt_abc_42"
    assert parse_position(to_event_id("job_abc_7", 42)) == 42


def test_without_a_cursor_a_list_begins_before_the_first() -> None:
    assert parse_position(None) == 0


@pytest.mark.parametrize("cursor", ["evt_a_999999999999999999", "0"])
def test_a_position_is_any_number_that_the_database_holds(cursor: str) -> None:
    assert parse_position(cursor) == int(cursor.split("_")[-1])


@pytest.mark.parametrize(
    "cursor",
    ["", "evt_a_", "evt_a_x1", "evt_a_-1", "evt_a_²", "evt_a_٣", "evt_1000000000000000000"],
)
def test_another_text_is_refused_with_the_parameter_that_had_it(cursor: str) -> None:
    with pytest.raises(PlatformError) as raised:
        parse_position(cursor)

    assert (raised.value.code, raised.value.param) == ("invalid_request", "after")
    assert repr(cursor) in raised.value.message
