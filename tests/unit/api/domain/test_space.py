"""When a project is full, and when its quota or the disk is worth a warning."""

import pytest

from services.api.domain.space import (
    Disk,
    Shortage,
    StorageUsage,
    find_shortage,
    quota_message,
    require_quota,
)
from services.common.errors import PlatformError

ROOMY = Disk(free=900, total=1000)


def usage(
    quota: int | None, files: int = 50, checkpoints: int = 20, models: int = 10
) -> StorageUsage:
    return StorageUsage(files=files, checkpoints=checkpoints, models=models, quota=quota)


def test_a_project_is_full_once_everything_it_keeps_reaches_its_quota() -> None:
    assert usage(None).total == 80
    assert [usage(quota).is_full for quota in (None, 81, 80, 79)] == [False, False, True, True]


def test_a_quota_is_warned_of_from_four_fifths_on() -> None:
    assert find_shortage(usage(101), ROOMY, 0) is None
    assert find_shortage(usage(100), ROOMY, 0) == Shortage("quota", 80, 100)
    assert find_shortage(usage(None), ROOMY, 0) is None


def test_a_disk_is_warned_of_from_nine_tenths_on() -> None:
    assert find_shortage(usage(None), Disk(free=101, total=1000), 0) is None
    assert find_shortage(usage(None), Disk(free=100, total=1000), 0) == Shortage("disk", 900, 1000)


def test_a_disk_is_warned_of_that_holds_fewer_than_two_more_checkpoints() -> None:
    assert find_shortage(usage(None), ROOMY, 450) is None
    assert find_shortage(usage(None), ROOMY, 451) == Shortage("disk", 100, 1000)


def test_the_quota_is_named_before_the_disk() -> None:
    found = find_shortage(usage(80), Disk(free=0, total=1000), 10)

    assert found is not None
    assert found.to_json() == {"of": "quota", "used_bytes": 80, "limit_bytes": 80}


def test_nothing_more_is_the_default() -> None:
    require_quota("p", usage(81), 1)
    require_quota("p", usage(81))

    assert quota_message("p", usage(100)) == quota_message("p", usage(100), 0)
    with pytest.raises(PlatformError) as raised:
        require_quota("p", usage(80))
    assert raised.value.message.startswith(quota_message("p", usage(80), 0))


@pytest.mark.parametrize(("quota", "more"), [(None, 10**12), (81, 0), (90, 10), (100, 20)], ids=str)
def test_what_fits_is_taken(quota: int | None, more: int) -> None:
    require_quota("p", usage(quota), more)


@pytest.mark.parametrize(("quota", "more"), [(80, 0), (79, 0), (89, 10), (81, 2)], ids=str)
def test_a_full_project_and_one_that_would_be_overfull_are_refused(quota: int, more: int) -> None:
    with pytest.raises(PlatformError) as raised:
        require_quota("p", usage(quota), more)

    assert raised.value.code == "quota_exceeded"
    assert raised.value.message.startswith(quota_message("p", usage(quota), more))


def test_a_refusal_says_what_is_kept_what_was_to_come_and_the_bound() -> None:
    without, with_more = (quota_message("p", usage(100), more) for more in (0, 25))

    for text in (without, with_more):
        assert "80 bytes (files 50, checkpoints 20, models 10)" in text
        assert "100 (DIRL_PROJECT_QUOTA_BYTES)" in text
    assert "more" not in without
    assert "25 more" in with_more
