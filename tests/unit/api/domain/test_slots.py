"""How many requests of a kind may run at once."""

from contextlib import ExitStack

import pytest

from services.api.domain.slots import Slots
from services.common.errors import PlatformError


def make_slots() -> Slots:
    return Slots("streams", per_project=2, total=3, retry_after_s=7.0)


def refusal(slots: Slots, project: str) -> PlatformError:
    with pytest.raises(PlatformError) as raised, slots.take(project):
        pass
    return raised.value


def test_a_project_has_so_many_slots_and_another_one_its_own() -> None:
    slots = make_slots()
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(slots.take("a"))

        refused = refusal(slots, "a")
        stack.enter_context(slots.take("b"))

    assert (refused.code, refused.kind.http_status, refused.retry_after_s) == (
        "rate_limited",
        429,
        7.0,
    )
    assert "'a' has 2 streams open" in refused.message


def test_all_projects_together_have_so_many() -> None:
    slots = make_slots()
    with slots.take("a"), slots.take("b"), slots.take("c"):
        assert refusal(slots, "d").code == "busy"


def test_a_slot_is_free_again_after_its_request_however_it_ended() -> None:
    slots = make_slots()
    for _ in range(5):
        with pytest.raises(ValueError, match="broken"), slots.take("a"):
            raise ValueError("broken")

    with slots.take("a"), slots.take("a"):
        pass
