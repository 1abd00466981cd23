"""One platform for the whole suite, and its table at the end."""

from collections.abc import Iterator

import pytest

from tests.support.faults import Arena, Report, arena

REPORTS: pytest.StashKey[list[Report]] = pytest.StashKey()


@pytest.fixture(scope="session")
def hurt(request: pytest.FixtureRequest) -> Iterator[Arena]:
    """Where the faults happen."""
    with arena() as made:
        request.config.stash[REPORTS] = made.reports
        yield made


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """The table of docs/operations.md."""
    reports = config.stash.get(REPORTS, [])
    if not reports:
        return
    terminalreporter.section("faults")
    terminalreporter.write_line(
        "| fault | what happened | seconds to the next step | certificate | said meanwhile |"
    )
    terminalreporter.write_line("| --- | --- | ---: | --- | --- |")
    for report in reports:
        terminalreporter.write_line(report.row())
