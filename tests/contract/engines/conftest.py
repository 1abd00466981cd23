"""Every test here runs on every engine that this machine has."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from services.common.model.loading import LoadedModel, save_model
from services.rollout.engines.base import RolloutEngine
from services.rollout.engines.torch_engine import TorchEngine
from tests.support import lmdeploy_package

MakeEngine = Callable[..., RolloutEngine]


@pytest.fixture(params=["torch", "lmdeploy"])
def make_engine(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeEngine]:
    """Builds an engine of a model: make_engine(loaded, max_sequence_tokens)."""
    make, made = _torch if request.param == "torch" else _lmdeploy(monkeypatch), []

    def make_and_close(*arguments: Any) -> RolloutEngine:
        made.append(make(*arguments))
        return made[-1]

    yield make_and_close
    for engine in made:
        engine.close()
    assert torch.is_grad_enabled(), "the engine left its caller's thread in inference mode"


def _torch(loaded: LoadedModel, max_sequence_tokens: int = 128) -> RolloutEngine:
    return TorchEngine(loaded, max_sequence_tokens=max_sequence_tokens, max_batch_size=16)


def _lmdeploy(patch: pytest.MonkeyPatch) -> MakeEngine:
    """LMDeploy's engine on the CPU, what needs a device replaced; on a GPU see tests/gpu."""
    if not lmdeploy_package.is_there():
        pytest.skip(lmdeploy_package.ABSENT)
    lmdeploy_package.put_on_path()
    from tests.support import lmdeploy_cpu  # noqa: PLC0415 - imports LMDeploy

    lmdeploy_cpu.untouched(patch)

    def make(loaded: LoadedModel, max_sequence_tokens: int = 128) -> Any:
        with tempfile.TemporaryDirectory() as directory:
            save_model(loaded, directory)
            return lmdeploy_cpu.open_engine(patch, Path(directory), loaded, max_sequence_tokens)

    return make
