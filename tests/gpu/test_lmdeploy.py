"""LMDeploy's own kernels, model and graphs, against TorchEngine on the same device; both compute in
bf16.
"""

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from services.common.diffusion.config import DecodingConfig
from services.common.errors import PlatformError
from services.common.model.loading import LoadedModel, load_model, load_skeleton
from services.common.model.state import export_state
from services.common.model.tiny import make_tiny_model
from services.common.parity import DenoisingPath
from services.common.trajectory import Response
from services.rollout.engines.base import GenerationRequest, RolloutEngine
from services.rollout.engines.lmdeploy_check import find_obstacles
from services.rollout.engines.torch_engine import TorchEngine
from tests.support.tiny_models import decode, decoding, request

TOLERANCE = 0.05
"""Mean |difference| of a log-probability between the engines: both round in bf16, at other places."""
TOKENS = 128
MISSING = find_obstacles()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(MISSING), reason="; ".join(MISSING))]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    make_tiny_model(path, seed=0, hidden_size=256, heads=4)  # heads of 64, which its kernels know
    return path


@pytest.fixture(scope="module", params=[True, False], ids=["eager", "graphs"])
def engine(request: pytest.FixtureRequest, directory: Path) -> Iterator[RolloutEngine]:
    from services.rollout.engines import lmdeploy_backend, lmdeploy_engine  # noqa: PLC0415 - import LMDeploy

    skeleton = load_skeleton(directory, "bfloat16", "meta")
    config = lmdeploy_backend.engine_config(skeleton, "bfloat16", TOKENS, 64, 0.3)
    config.eager_mode = request.param
    backend = lmdeploy_backend.open_backend(directory, skeleton, config)
    engine = lmdeploy_engine.LMDeployEngine(backend, skeleton, max_sequence_tokens=TOKENS)
    yield engine
    engine.close()
    del engine
    gc.collect()
    torch.cuda.empty_cache()


@pytest.fixture
def loaded(directory: Path) -> LoadedModel:
    return load_model(directory, "bfloat16", "cuda")


def _config(loaded: LoadedModel, **changes: object) -> DecodingConfig:
    return decoding(mask_token_id=loaded.mask_token_id, max_new_tokens=24, **changes)


def _mixed(loaded: LoadedModel) -> list[GenerationRequest]:
    """Prompts of one token to three blocks."""
    rng = np.random.default_rng(0)
    return [
        request(rng.integers(0, 90, length), _config(loaded), ledger=length)
        for length in range(1, 13)
    ]


def _path(asked: GenerationRequest, got: Response) -> DenoisingPath:
    return DenoisingPath(
        prompt_ids=asked.prompt_ids, token_ids=got.token_ids, unmask_step=got.unmask_step
    )


def _gap(loaded: LoadedModel, asked: list[GenerationRequest], done: dict[str, Response]) -> float:
    paths = [_path(each, done[each.request_id]) for each in asked]
    replayed = TorchEngine(loaded, max_sequence_tokens=TOKENS, max_batch_size=16).replay(paths)
    recorded = np.concatenate([done[each.request_id].logprobs for each in asked])
    return float(np.abs(recorded - np.concatenate(replayed)).mean())


def test_as_many_siblings_as_seeds_are_distinct(engine: RolloutEngine, loaded: LoadedModel) -> None:
    done = decode(
        engine, [request(list(range(8)), _config(loaded), index=index) for index in range(32)]
    )

    assert len({each.token_ids.tobytes() for each in done.values()}) == 32


def test_torch_engine_reproduces_the_logprobs_within_rounding(
    engine: RolloutEngine, loaded: LoadedModel
) -> None:
    asked = _mixed(loaded)

    assert _gap(loaded, asked, decode(engine, asked)) <= TOLERANCE


def test_lmdeploy_reproduces_its_own_logprobs(engine: RolloutEngine, loaded: LoadedModel) -> None:
    asked = _mixed(loaded)
    done = decode(engine, asked)

    replayed = engine.replay([_path(each, done[each.request_id]) for each in asked])

    recorded = np.concatenate([done[each.request_id].logprobs for each in asked])
    assert np.abs(recorded - np.concatenate(replayed)).mean() <= TOLERANCE


def test_pushed_weights_decide_the_next_response_and_are_scored_by_the_other_engine(
    engine: RolloutEngine, loaded: LoadedModel, tmp_path: Path
) -> None:
    asked, original = (
        _mixed(loaded),
        {n: t.cpu().clone() for n, t in export_state(loaded.model).items()},
    )
    before = decode(engine, asked)
    make_tiny_model(tmp_path, seed=1, hidden_size=256, heads=4)
    other = load_model(tmp_path, "bfloat16", "cuda")

    engine.load_weights(export_state(other.model))

    after = decode(engine, asked)
    engine.load_weights(original)
    assert any(
        before[name].token_ids.tobytes() != after[name].token_ids.tobytes() for name in before
    )
    assert _gap(other, asked, after) <= TOLERANCE


def test_stop_tokens_and_the_budget_end_responses_as_they_do_elsewhere(
    engine: RolloutEngine, loaded: LoadedModel
) -> None:
    prompt = list(range(6))
    free = decode(engine, [request(prompt, _config(loaded, temperature=0.0))])["0-0"]
    stop = int(free.token_ids[1])

    cut = decode(
        engine, [request(prompt, _config(loaded, temperature=0.0, stop_token_ids=(stop,)))]
    )["0-0"]

    first = free.token_ids.tolist().index(stop)
    assert cut.visible_len == first + 1
    assert len(free.token_ids) == 26  # 24 and the rest of the last block


def test_sleep_gives_memory_back_and_loading_wakes(
    engine: RolloutEngine, loaded: LoadedModel
) -> None:
    asked = _mixed(loaded)[:2]
    state = {name: tensor.cpu().clone() for name, tensor in export_state(loaded.model).items()}
    expected = decode(engine, asked)
    awake = torch.cuda.mem_get_info()[0]

    engine.sleep()

    assert torch.cuda.mem_get_info()[0] > awake + 2**28  # the cache alone is far larger
    with pytest.raises(PlatformError, match="sleeps"):
        engine.submit(asked)
    engine.load_weights(state)
    assert {n: d.token_ids.tobytes() for n, d in decode(engine, asked).items()} == {
        name: done.token_ids.tobytes() for name, done in expected.items()
    }


def test_an_aborted_engine_answers_as_before(engine: RolloutEngine, loaded: LoadedModel) -> None:
    asked = _mixed(loaded)
    expected = decode(engine, asked[:1])
    engine.submit(asked)
    engine.step()

    engine.abort_all()

    assert not engine.has_work
    again = decode(engine, asked[:1])
    assert [d.token_ids.tolist() for d in again.values()] == [
        d.token_ids.tolist() for d in expected.values()
    ]
