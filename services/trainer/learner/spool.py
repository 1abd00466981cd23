"""Encoded rows in a temporary file: the operating system keeps in memory what is used, so that a data set may be
larger than memory.
"""

import mmap
import pickle
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from typing import TypeVar, overload

T = TypeVar("T")


class SpooledItems(Sequence[T]):
    """Items in the order given, each read from the file when it is asked for."""

    def __init__(self, items: Iterable[T]) -> None:
        self._ends = array("Q", [0])
        # It has no name, so that no end of the process leaves it behind.
        with tempfile.TemporaryFile() as file:
            for item in items:
                pickle.dump(item, file, pickle.HIGHEST_PROTOCOL)
                self._ends.append(file.tell())
            file.flush()
            size = self._ends[-1]
            self._bytes = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        place = range(len(self))[index]
        item: T = pickle.loads(self._bytes[self._ends[place] : self._ends[place + 1]])
        return item
