"""What LMDeploy does without the trace shim: the faults are real, and the suite beside would see
each of them.
"""

import asyncio
import dataclasses
import doctest
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from services.common.errors import PlatformError
from services.common.model.loading import LoadedModel, save_model
from services.common.trajectory import FinishReason, Response
from tests.support import lmdeploy_package
from tests.support.tiny_models import decode, decoding, request, tiny_model

FAULTS = Path(__file__).resolve().parents[3] / "docs" / "lmdeploy-faults.md"
Open = Callable[..., Any]


@pytest.fixture
def lmdeploy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The support module, LMDeploy being as it was released."""
    if not lmdeploy_package.is_there():
        pytest.skip(lmdeploy_package.ABSENT)
    lmdeploy_package.put_on_path()
    from tests.support import lmdeploy_cpu  # noqa: PLC0415 - imports LMDeploy

    lmdeploy_cpu.untouched(monkeypatch)
    return lmdeploy_cpu


@pytest.fixture
def open_engine(lmdeploy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """open_engine(loaded, without=[…]): an engine whose shim lacks the replacements of these names."""
    opened = []

    def make(loaded: LoadedModel, without: tuple[str, ...] = ()) -> Any:
        with tempfile.TemporaryDirectory() as directory:
            save_model(loaded, directory)
            engine = lmdeploy.open_engine(monkeypatch, Path(directory), loaded, 64)
        for owner, name in lmdeploy.lmdeploy_trace.PATCHED:
            if name in without:
                monkeypatch.setattr(owner, name, getattr(owner, name).replaced)
        opened.append(engine)
        return engine

    yield make
    for engine in opened:
        engine.close()


def test_the_reproductions_of_the_documented_faults_reproduce_them(lmdeploy: ModuleType) -> None:
    failed, tried = doctest.testfile(str(FAULTS), module_relative=False)

    assert (failed, tried > 30) == (0, True)


def _siblings(engine: Any, count: int) -> list[Response]:
    prompt = np.random.default_rng(8).integers(0, 90, size=8)
    return list(
        decode(
            engine, [request(prompt, decoding(), index=index) for index in range(count)]
        ).values()
    )


@pytest.mark.parametrize(("siblings", "distinct"), [(4, 1), (8, 2), (16, 4)])
def test_without_the_order_of_rows_siblings_are_copies(
    open_engine: Open, siblings: int, distinct: int
) -> None:
    patched = _siblings(open_engine(tiny_model()), siblings)
    released = _siblings(open_engine(tiny_model(), without=("make_sampling_inputs",)), siblings)

    assert [len({each.token_ids.tobytes() for each in done}) for done in (patched, released)] == [
        siblings,
        distinct,
    ]


def test_without_the_recording_there_is_no_trace(open_engine: Open) -> None:
    engine = open_engine(tiny_model(), without=("update_running",))

    with pytest.raises(PlatformError, match="trace has 0 positions"):
        _siblings(engine, 1)


def test_what_lmdeploy_returns_as_logprobs_does_not_belong_to_the_tokens(open_engine: Open) -> None:
    engine = open_engine(tiny_model())
    backend, prompt = engine._backend, list(range(9))
    settings = engine._to_config(request(np.array(prompt), decoding(max_new_tokens=12)))
    settings.logprobs = 1

    async def stream() -> tuple[list[int], list[dict[int, float]]]:
        backend._engine.start_loop()
        tokens, rows = [], []
        async for output in backend._instance.async_stream_infer(1, prompt, settings):
            tokens += output.token_ids
            rows += output.logprobs or []
        return tokens, rows

    tokens, rows = engine._run(asyncio.wait_for(stream(), 60))

    assert len(tokens) >= 12
    assert not (
        len(rows) == len(tokens)
        and all(token in row for token, row in zip(tokens, rows, strict=False))
    )


def test_without_the_patch_a_stop_token_in_the_prompts_block_is_overlooked(
    open_engine: Open,
) -> None:
    prompt, greedy = list(range(5)), {"temperature": 0.0, "max_new_tokens": 11}
    free = decode(open_engine(tiny_model()), [request(prompt, decoding(**greedy))])["0-0"]
    one = request(prompt, decoding(stop_token_ids=(int(free.token_ids[1]),), **greedy))

    patched = decode(open_engine(tiny_model()), [one])["0-0"]
    released = decode(open_engine(tiny_model(), without=("make_stopping_criteria",)), [one])["0-0"]

    assert (len(patched.token_ids), patched.finish_reason) == (3, FinishReason.STOP)
    assert len(released.token_ids) > 3


@pytest.mark.parametrize(
    ("block_size", "dtype", "code", "way_out"),
    [
        (4, "float32", "invalid_request", "trainer.precision"),
        (3, "bfloat16", "model_invalid", "engine torch"),
    ],
)
def test_what_lmdeploy_has_no_kernels_for_is_refused_with_the_way_out(
    lmdeploy: ModuleType, block_size: int, dtype: str, code: str, way_out: str
) -> None:
    loaded = dataclasses.replace(tiny_model(), block_size=block_size)

    with pytest.raises(PlatformError, match=way_out) as caught:
        lmdeploy.lmdeploy_backend.engine_config(loaded, dtype, 64, 8, 0.8)

    assert caught.value.code == code


def test_a_cache_that_does_not_hold_one_response_is_refused_when_it_is_opened(
    lmdeploy: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    save_model(tiny_model(), tmp_path)

    with pytest.raises(PlatformError, match="one response may need") as caught:
        lmdeploy.open_engine(monkeypatch, tmp_path, tiny_model(), lmdeploy.PAGES * 64 + 4)

    assert caught.value.code == "oom_rollout"


def test_an_lmdeploy_of_another_version_or_signature_is_refused(
    lmdeploy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = lmdeploy.lmdeploy_trace
    with pytest.raises(PlatformError, match=r"LMDeploy 0\.19\.0 cannot be traced") as caught:
        shim.require_known("0.19.0")
    assert caught.value.code == "preflight_failed"

    owner, name = next(iter(shim.PATCHED))
    monkeypatch.setattr(owner, name, lambda self, seqs, more: None)
    with pytest.raises(PlatformError, match=f"other signatures of {owner.__name__}.{name}"):
        shim.install(5)


def test_a_forward_that_fails_fails_the_step_and_not_only_the_log(
    open_engine: Open, lmdeploy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(tiny_model())

    def out_of_memory(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(lmdeploy.model_agent.BaseModelAgent, "_forward_impl", out_of_memory)

    with pytest.raises(PlatformError, match="LMDeploy ended session") as caught:
        _siblings(engine, 12)

    assert caught.value.code == "internal"
    engine.abort_all()  # of an engine whose loop has died
    assert not engine.has_work
