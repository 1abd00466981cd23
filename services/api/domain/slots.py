"""How many requests of a kind may run at once, for each project and in all."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from services.common.errors import PlatformError


class Slots:
    """Slots of this process; safe to use from several threads."""

    def __init__(self, what: str, *, per_project: int, total: int, retry_after_s: float) -> None:
        """`what` names the requests in errors; `retry_after_s` is when a slot may be free again."""
        self._what, self._per_project, self._total = what, per_project, total
        self._retry_after_s = retry_after_s
        self._taken: Counter[str] = Counter()
        self._lock = Lock()

    @contextmanager
    def take(self, project: str) -> Iterator[None]:
        """Hold a slot in the block.

        Raises PlatformError, at once and with the time to retry: "rate_limited" when the project has
        all of its slots, "busy" when all projects together have all there are.
        """
        with self._lock:
            if self._taken[project] >= self._per_project:
                raise PlatformError(
                    "rate_limited",
                    f"The project {project!r} has {self._per_project} {self._what} open, as many as it may.",
                    hint=f"Retry in {self._retry_after_s:g} s, or close some.",
                    retry_after_s=self._retry_after_s,
                )
            if self._taken.total() >= self._total:
                raise PlatformError(
                    "busy",
                    f"The server has {self._total} {self._what} open, as many as it can serve.",
                    hint=f"Retry in {self._retry_after_s:g} s.",
                    retry_after_s=self._retry_after_s,
                )
            self._taken[project] += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken[project] -= 1
                if not self._taken[project]:
                    del self._taken[project]
