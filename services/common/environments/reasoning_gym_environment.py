"""The data sets of reasoning-gym: procedural tasks, each with a scorer of its own."""

import dataclasses
import json
from collections.abc import Collection, Mapping
from typing import Any, Final

from reasoning_gym.composite import DatasetSpec
from reasoning_gym.factory import DATASETS, create_dataset

from services.common.environments.interface import Task


class ReasoningGymData:
    """One data set; tasks are made when they are asked for."""

    def __init__(self, data_set: Any, size: int) -> None:
        self._data_set, self._size = data_set, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Task:
        entry = self._data_set[index]
        metadata = json.loads(json.dumps(entry["metadata"], default=str, skipkeys=True))
        answer = entry["answer"] if isinstance(entry["answer"], str) else None
        return Task(entry["question"], answer, metadata)

    def score(self, index: int, task: Task, answer: str) -> float:
        """Return the score of the data set's own scorer, mostly 0 to 1.

        Some scorers raise for an answer that they cannot read: it scores 0, like any wrong one.
        """
        entry = self._find_entry(index, task)
        try:
            return float(self._data_set.score_answer(answer, entry))
        except (ImportError, OSError, MemoryError):
            raise  # not the answer's fault
        except Exception:  # noqa: BLE001 - whatever the text made the scorer do
            return 0.0

    def _find_entry(self, index: int, task: Task) -> dict[str, Any]:
        """Return the entry of a task: made again, because it may hold tuples, which JSON has not and
        scorers compare with, or from the task where that gives another one. Some data sets iterate
        over sets and differ from process to process; some read files, which the sandbox may refuse.
        """
        try:
            made: dict[str, Any] = self._data_set[index]
        except OSError:
            made = {}
        if made.get("question") == task.prompt:
            return made
        return {"question": task.prompt, "answer": task.answer, "metadata": task.metadata}


class ReasoningGym:
    """The environment."""

    @property
    def data_sets(self) -> Collection[str]:
        """Names that reasoning-gym registers."""
        return frozenset(DATASETS)

    def open(
        self, data_set: str, *, seed: int, size: int, parameters: Mapping[str, Any]
    ) -> ReasoningGymData:
        """Make a data set; raises ValueError."""
        _, config = DATASETS[data_set]
        known = {item.name for item in dataclasses.fields(config)} - {"seed", "size"}
        unknown = sorted(set(parameters) - known)
        if unknown:
            raise ValueError(
                f"{data_set!r} has no parameter {unknown[0]!r}; it has {', '.join(sorted(known)) or 'none'}"
            )
        values = dict(parameters)
        try:
            if data_set == "composite" and "datasets" in values:
                values["datasets"] = [DatasetSpec(**part) for part in values["datasets"]]
            made = create_dataset(data_set, seed=seed, size=size, **values)
        # Its configurations check themselves with assertions, and types not at all.
        except (AssertionError, TypeError, ValueError, KeyError, IndexError) as error:
            raise ValueError(
                f"{data_set!r} refuses its parameters {dict(parameters)}: {error}"
            ) from None
        return ReasoningGymData(made, size)


ENVIRONMENT: Final = ReasoningGym()
