"""Writes down when the processes of a benchmarked platform compute; Python imports this module by
itself at start.

Every call of a function in COMPUTING (of a class, or of the module where None stands) appends
`[kind, start, end]`, in seconds of the machine's monotonic clock, to a file of its process in the
directory DIRL_BENCH_TRACE. The services know nothing of it.
"""

import functools
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import sys
import threading
import time
from types import ModuleType
from typing import Any

COMPUTING = {
    "services.rollout.engines.torch_engine": (
        ("engine", "TorchEngine", ("step", "replay", "load_weights")),
    ),
    "services.common.weights": (("weights", "WeightAssembler", ("feed", "finish")),),
    "services.trainer.training.policy_model": (
        ("learner", "Trainee", ("train_rl", "logprobs", "tensors")),
    ),
    "services.reward.pool": (("verifier", "_Slot", ("_grade",)),),
    "services.trainer.learner.stage": (("step", None, ("_one_step",)),),
}


def traced(kind: str, function: Any) -> Any:
    """The function, its calls written down."""

    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.monotonic()
        try:
            return function(*args, **kwargs)
        finally:
            _write([kind, started, time.monotonic()])

    return timed


_lock = threading.Lock()


def _write(interval: list[Any]) -> None:
    path = os.path.join(os.environ["DIRL_BENCH_TRACE"], f"{os.getpid()}.jsonl")
    with _lock, open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(interval) + "\n")


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of COMPUTING as everybody does, and wraps their functions once they are
    loaded.
    """

    def find_spec(
        self, name: str, path: Any, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in COMPUTING:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module
            spec.loader.exec_module = lambda module: _load(load, module)  # type: ignore[method-assign]
        return spec


def _load(load: Any, module: ModuleType) -> None:
    load(module)
    for kind, owner, names in COMPUTING[module.__name__]:
        place = module if owner is None else getattr(module, owner)
        for name in names:
            setattr(place, name, traced(kind, getattr(place, name)))


if "DIRL_BENCH_TRACE" in os.environ:
    sys.meta_path.insert(0, _Finder())
