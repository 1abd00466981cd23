"""The prompt ledger: which position of the seeded prompt order was trained, dropped or is open; and
its certificate.

A position is a place in the order, not a row: epochs are further permutations of the same rows, so
that one row has many positions and equal rows never collide. The ledger is stored in the
checkpoint, in the same rename as the weights; resuming therefore needs no agreement between two
stores.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from services.common.errors import PlatformError

Ranges = list[list[int]]
"""Sorted, disjoint [first, last] pairs, both included."""

_Value = TypeVar("_Value", int, str)


class PromptOrder:
    """Seeded order of a file's rows: position p is row `permutation(p // num_rows)[p % num_rows]`.

    A permutation sorts the rows by a hash of (key, epoch, row), so that it is the same in every
    release of every library; it costs one hash per row and epoch.
    """

    def __init__(self, key: str, num_rows: int) -> None:
        """`key` names seed and stage."""
        if num_rows < 1:
            raise ValueError("an order needs at least one row")
        self._key = key
        self._num_rows = num_rows
        self._epoch = -1
        self._permutation: list[int] = []

    def row(self, position: int) -> int:
        """Row at a position; raises ValueError for a negative one."""
        if position < 0:
            raise ValueError(f"position {position} is negative")
        epoch, place = divmod(position, self._num_rows)
        # Positions are asked for nearly in order: one cached permutation is enough.
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, self._permute(epoch)
        return self._permutation[place]

    def _permute(self, epoch: int) -> list[int]:
        # A hash and not a generator's shuffle: NumPy and Python may change theirs between releases,
        # and a resumed job would train on other rows without noticing.
        def rank(row: int) -> bytes:
            return hashlib.blake2b(f"{self._key}:{epoch}:{row}".encode(), digest_size=16).digest()

        return sorted(range(self._num_rows), key=rank)


@dataclass(frozen=True)
class PromptResult:
    """What the responses to one prompt achieved in a step."""

    row: int
    """Place of the row in the stage's data set."""
    attempts: int
    """Responses with a reward."""
    successes: int
    """Responses whose reward exceeds `rl.curriculum.success_reward`."""


class MixedOrder:
    """Order of the rows of several files, each in its own seeded order and with its share of the
    positions.

    The next position is of the file that is furthest behind its share, so that every batch has the
    mixture, not only their sum. Rows are numbered through, file after file.
    """

    def __init__(self, key: str, parts: Sequence[tuple[int, float]]) -> None:
        """`parts` are (rows, weight) of each file."""
        total = sum(weight for _, weight in parts)
        self._shares = [weight / total for _, weight in parts]
        self._orders = [
            PromptOrder(f"{key}:{index}", rows) for index, (rows, _) in enumerate(parts)
        ]
        self._offsets = [sum(rows for rows, _ in parts[:index]) for index in range(len(parts))]
        self._taken = [0] * len(parts)
        self._places: list[tuple[int, int]] = []
        """File, and place in its order, of every position so far."""

    def row(self, position: int) -> int:
        """Row at a position; raises ValueError for a negative one."""
        if position < 0:
            raise ValueError(f"position {position} is negative")
        # The mixture depends on all earlier positions, so the table is filled up to this one; a resumed
        # attempt fills it from 0 and gets the same.
        while len(self._places) <= position:
            self._places.append(self._next())
        part, place = self._places[position]
        return self._offsets[part] + self._orders[part].row(place)

    def _next(self) -> tuple[int, int]:
        # Ties go to the first file: the order depends on nothing but the weights.
        due = len(self._places) + 1
        behind = [
            share * due - taken for share, taken in zip(self._shares, self._taken, strict=True)
        ]
        part = behind.index(max(behind))
        self._taken[part] += 1
        return part, self._taken[part] - 1


@dataclass(frozen=True)
class StepRecord:
    """The prompts of one optimizer step, as it logged them apart from the ledger."""

    stage: str
    step: int
    """Global step."""
    trained: tuple[int, ...]
    """Positions of the groups that the step trained on."""
    dropped: Mapping[int, str]
    """Reason by position, for what was dropped while the step's batch was gathered."""
    results: tuple["PromptResult", ...] = ()
    """What the responses of the step's groups achieved, dropped ones included."""


class PromptLedger:
    """State of every position that was issued: open, trained or dropped."""

    def __init__(self) -> None:
        self._next = 0
        self._trained: dict[int, int] = {}
        self._dropped: dict[int, str] = {}
        self._open: set[int] = set()
        self._reissue: list[int] = []

    @property
    def next_position(self) -> int:
        """First position that was never issued."""
        return self._next

    def issue(self, count: int) -> list[int]:
        """Open the next `count` positions and return them: those that a former attempt left open
        first, then new ones.
        """
        # Repeated first and in order, so that the next attempt gathers the batch that the last one
        # was gathering when it ended.
        again, self._reissue = self._reissue[:count], self._reissue[count:]
        fresh = list(range(self._next, self._next + count - len(again)))
        self._next += len(fresh)
        self._open.update(fresh)
        return again + fresh

    def close(self, record: StepRecord) -> None:
        """Close what a finished step trained and dropped; raises ValueError for a position that is
        not open.

        Called once per step and not while its batch is gathered: a step that is abandoned leaves
        all of its positions open, and the next attempt repeats it as it was.
        """
        for position in record.trained:
            self._close(position)
            self._trained[position] = record.step
        for position, reason in record.dropped.items():
            self._close(position)
            self._dropped[position] = reason

    def step_by_position(self) -> dict[int, int]:
        """Global step by position."""
        return dict(self._trained)

    def reason_by_position(self) -> dict[int, str]:
        """Reason by position."""
        return dict(self._dropped)

    def open_positions(self) -> frozenset[int]:
        """Positions issued and neither trained nor dropped."""
        return frozenset(self._open)

    def to_json(self) -> dict[str, Any]:
        """Plain values; positions as ranges."""
        return {
            "next": self._next,
            "trained": [
                [step, to_ranges(group)]
                for step, group in sorted(_positions_by_value(self._trained).items())
            ],
            "dropped": {
                reason: to_ranges(group)
                for reason, group in sorted(_positions_by_value(self._dropped).items())
            },
            "open": to_ranges(self._open),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "PromptLedger":
        """Inverse of to_json; what is open will be issued again, in order. Raises
        `checkpoint_invalid`.
        """
        ledger = cls()
        try:
            ledger._next = int(data["next"])
            ledger._trained = {
                p: int(step) for step, ranges in data["trained"] for p in from_ranges(ranges)
            }
            ledger._dropped = {
                p: reason for reason, ranges in data["dropped"].items() for p in from_ranges(ranges)
            }
            ledger._reissue = from_ranges(data["open"])
        except (KeyError, TypeError, ValueError) as error:
            raise PlatformError(
                "checkpoint_invalid", f"Cannot read the prompt ledger: {error!r}."
            ) from error
        # Open positions stay open: they are issued again, not issued anew, so none is counted twice.
        ledger._open = set(ledger._reissue)
        return ledger

    def _close(self, position: int) -> None:
        if position not in self._open:
            raise ValueError(
                f"position {position} is not open; a position is issued first and closed once"
            )
        self._open.remove(position)


@dataclass(frozen=True)
class Certificate:
    """issued = trained + dropped + open + lost, over the surviving lineage."""

    issued: int
    trained: int
    dropped: dict[str, int]
    open: int
    lost: int
    """Positions below the ledger's cursor that no step and no open position accounts for, such as
    the ones that the ledger closed without a step.
    """
    trained_twice: int
    """Surplus trainings: logged more than once, or logged and still open (they would be trained
    again).
    """
    miscounted: int = 0
    """Rows whose attempts and successes differ between checkpoint and step log."""

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, trained twice or miscounted, and the sum is right."""
        total = self.trained + sum(self.dropped.values()) + self.open
        sound = self.lost == 0 and self.trained_twice == 0 and self.miscounted == 0
        return sound and self.issued == total

    def to_json(self) -> dict[str, Any]:
        """Fields of the CERTIFICATE event."""
        return asdict(self)

    def __add__(self, other: "Certificate") -> "Certificate":
        return Certificate(
            issued=self.issued + other.issued,
            trained=self.trained + other.trained,
            dropped=dict(Counter(self.dropped) + Counter(other.dropped)),
            open=self.open + other.open,
            lost=self.lost + other.lost,
            trained_twice=self.trained_twice + other.trained_twice,
            miscounted=self.miscounted + other.miscounted,
        )


NOTHING_ISSUED = Certificate(issued=0, trained=0, dropped={}, open=0, lost=0, trained_twice=0)


def certify(ledger: PromptLedger, records: Sequence[StepRecord]) -> Certificate:
    """Compare a stage's ledger with what its steps logged.

    Trained and dropped are counted from `records` alone; of the ledger only the cursor and the open
    positions are taken, so a duplicate or loss in either shows.
    """
    # Two records that are written apart: the ledger is in the checkpoint, the step records in the step
    # log. A fault in either makes them disagree.
    trainings = Counter(position for record in records for position in record.trained)
    drops = {position: reason for record in records for position, reason in record.dropped.items()}
    still_open = ledger.open_positions()
    # Records may name positions beyond the cursor when the ledger lost them; they count as issued.
    issued = set(range(ledger.next_position)) | set(trainings) | set(drops)
    surplus = sum(count - 1 for count in trainings.values())
    again = len(still_open & set(trainings)) + len(set(drops) & set(trainings))
    return Certificate(
        issued=len(issued),
        trained=len(trainings),
        dropped=dict(
            Counter(reason for position, reason in drops.items() if position not in trainings)
        ),
        open=len(still_open - set(trainings) - set(drops)),
        lost=len(issued - set(trainings) - set(drops) - still_open),
        trained_twice=surplus + again,
    )


def to_ranges(positions: Iterable[int]) -> Ranges:
    """Compact form of a set of positions."""
    ranges: Ranges = []
    for position in sorted(positions):
        if ranges and position == ranges[-1][1] + 1:
            ranges[-1][1] = position
        else:
            ranges.append([position, position])
    return ranges


def from_ranges(ranges: Ranges) -> list[int]:
    """Inverse of to_ranges, ascending."""
    return [position for first, last in ranges for position in range(first, last + 1)]


def _positions_by_value(values: Mapping[int, _Value]) -> dict[_Value, list[int]]:
    groups: dict[_Value, list[int]] = {}
    for position, value in values.items():
        groups.setdefault(value, []).append(position)
    return groups
