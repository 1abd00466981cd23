"""Every test here runs on every engine that this machine has."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from services.common.model.loading import LoadedModel
from services.rollout.engines.base import RolloutEngine
from services.rollout.engines.torch_engine import TorchEngine
from tests.support import lmdeploy_package

MakeEngine = Callable[..., RolloutEngine]


@pytest.fixture(params=["torch", "lmdeploy"])
def make_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeEngine]:
    """Builds an engine of a model: make_engine(loaded, max_sequence_tokens)."""
    make, made = _torch if request.param == "torch" else _lmdeploy(monkeypatch), []

    def make_and_close(*arguments: Any) -> RolloutEngine:
        made.append(make(*arguments))
        return made[-1]

    yield make_and_close
    for engine in made:
        engine.close()


def _torch(loaded: LoadedModel, max_sequence_tokens: int = 128) -> RolloutEngine:
    return TorchEngine(loaded, max_sequence_tokens=max_sequence_tokens, max_batch_size=16)


def _lmdeploy(patch: pytest.MonkeyPatch) -> MakeEngine:
    """LMDeploy's strategy classes on the CPU; its real engine needs a GPU, see tests/gpu."""
    if not lmdeploy_package.is_there():
        pytest.skip(lmdeploy_package.ABSENT)
    lmdeploy_package.put_on_path()
    from services.rollout.engines import lmdeploy_engine, lmdeploy_trace  # noqa: PLC0415 - import LMDeploy
    from tests.support import lmdeploy_cpu  # noqa: PLC0415

    lmdeploy_cpu.untouched(patch)

    def make(loaded: LoadedModel, max_sequence_tokens: int = 128) -> Any:
        backend = lmdeploy_cpu.CpuBackend(loaded, lmdeploy_trace.install(loaded.mask_token_id))
        return lmdeploy_engine.LMDeployEngine(backend, loaded, max_sequence_tokens=max_sequence_tokens)

    return make
