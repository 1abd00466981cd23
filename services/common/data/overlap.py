"""Equal prompts in data files: within one, and between training and validation."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from services.common.data.rows import Row

NGRAM_WORDS: Final = 13
"""Words of a run that two prompts share by copying, not by chance (GPT-3, arXiv 2005.14165)."""
_MAX_SHOWN: Final = 5


@dataclass
class Duplicates:
    """Rows of a file whose prompt an earlier row has."""

    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)
    """(place, place of the earlier row) of the first ones."""


@dataclass
class Overlap:
    """Validation rows that training rows give away."""

    validation_rows: int
    exact: int
    """With the prompt of a training row."""
    ngram: int
    """With a run of NGRAM_WORDS words of a training prompt, or with the same prompt."""
    examples: list[tuple[str, str]]
    """(place in the validation file, place in the training file) of the first ones."""


class DuplicateCounter:
    """Counts equal prompts in a stream of rows."""

    def __init__(self) -> None:
        self._places: dict[int, str] = {}
        self.found = Duplicates()

    def add(self, row: Row) -> None:
        """Count a row."""
        earlier = self._places.setdefault(hash(_words_of(row)), row.place)
        if earlier != row.place:
            self.found.count += 1
            self.found.examples += [(row.place, earlier)] * (len(self.found.examples) < _MAX_SHOWN)


class OverlapCounter:
    """Compares training rows with the prompts of a validation file, which are kept in memory."""

    def __init__(self, validation: Iterable[Row]) -> None:
        self._places: list[str] = []
        self._rows_by_prompt: dict[int, set[int]] = {}
        self._rows_by_ngram: dict[int, set[int]] = {}
        for number, row in enumerate(validation):
            words = _words_of(row)
            self._places.append(row.place)
            self._rows_by_prompt.setdefault(hash(words), set()).add(number)
            for ngram in _ngrams_of(words):
                self._rows_by_ngram.setdefault(ngram, set()).add(number)
        self._exact: set[int] = set()
        self._ngram: dict[int, str] = {}
        """Place of a training row, by validation row."""

    def add(self, row: Row) -> None:
        """Compare a training row."""
        words = _words_of(row)
        same = self._rows_by_prompt.get(hash(words), set())
        self._exact |= same
        shared = (self._rows_by_ngram.get(ngram, ()) for ngram in _ngrams_of(words))
        for number in same.union(*shared):
            self._ngram.setdefault(number, row.place)

    def result(self) -> Overlap:
        """What the rows so far share."""
        first = sorted(self._ngram)[:_MAX_SHOWN]
        return Overlap(
            validation_rows=len(self._places),
            exact=len(self._exact),
            ngram=len(self._ngram),
            examples=[(self._places[number], self._ngram[number]) for number in first],
        )


def _words_of(row: Row) -> tuple[str, ...]:
    """Return the words of all user turns, without case and the signs around them."""
    text = " ".join(turn.content for turn in row.messages if turn.role == "user")
    words = (word.strip(".,;:!?\"'()[]{}") for word in text.casefold().split())
    return tuple(word for word in words if word)


def _ngrams_of(words: tuple[str, ...]) -> set[int]:
    return {
        hash(words[start : start + NGRAM_WORDS]) for start in range(len(words) - NGRAM_WORDS + 1)
    }
