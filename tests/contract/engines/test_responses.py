"""A response depends on weights, prompt and seed; siblings differ; versions do not mix; bad
requests are refused.
"""

import numpy as np
import pytest

from services.common.errors import PlatformError
from services.common.model.state import export_state
from services.rollout.engines.base import GenerationRequest
from tests.contract.engines.conftest import MakeEngine
from tests.support.tiny_models import decode, decoding, request, tiny_model


def _prompt(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, 90, size=length)


def _group(count: int, prompt_length: int = 8, **changes: object) -> list[GenerationRequest]:
    return [
        request(_prompt(prompt_length), decoding(**changes), index=index) for index in range(count)
    ]


@pytest.mark.parametrize("prompt_length", [8, 9])
def test_as_many_siblings_as_seeds_are_distinct_and_come_back_equal(
    make_engine: MakeEngine, prompt_length: int
) -> None:
    engine, group = make_engine(tiny_model()), _group(32, prompt_length)

    first = {name: done.token_ids.tobytes() for name, done in decode(engine, group).items()}
    again = {name: done.token_ids.tobytes() for name, done in decode(engine, group[::-1]).items()}

    assert len(set(first.values())) == 32
    assert again == first


def test_positions_of_a_block_draw_independently(make_engine: MakeEngine) -> None:
    flat = {"temperature": 2.0, "unmasking_strategy": "low_confidence_static", "denoising_steps": 1}

    done = decode(make_engine(tiny_model()), _group(40, **flat))

    tokens = np.stack([each.token_ids for each in done.values()])
    equal = (tokens[:, 1:] == tokens[:, :-1]).mean()
    assert equal < 0.1


def test_a_response_is_the_same_alone_and_in_company(make_engine: MakeEngine) -> None:
    loaded = tiny_model()
    company = [
        *_group(5, 8),
        *_group(0),
        request(_prompt(11), decoding(temperature=0.6, top_k=7), ledger=3),
    ]
    together = decode(make_engine(loaded), company)

    for one in (company[0], company[3], company[-1]):
        alone = decode(make_engine(loaded), [one])[one.request_id]
        assert alone.token_ids.tolist() == together[one.request_id].token_ids.tolist()
        assert alone.unmask_step.tolist() == together[one.request_id].unmask_step.tolist()
        np.testing.assert_allclose(alone.logprobs, together[one.request_id].logprobs, atol=2e-6)


def test_the_mask_and_ids_beyond_the_tokenizer_are_never_generated(make_engine: MakeEngine) -> None:
    loaded = tiny_model()

    done = decode(make_engine(loaded), _group(48, temperature=2.0, max_new_tokens=40))

    seen = {int(token) for each in done.values() for token in each.token_ids}
    assert seen <= set(range(len(loaded.tokenizer))) - {loaded.mask_token_id}


def test_pushed_weights_decide_the_next_response(make_engine: MakeEngine) -> None:
    first, second = tiny_model.__wrapped__(seed=0), tiny_model(seed=1)
    one = request(_prompt(9), decoding())
    engine = make_engine(first)
    before = decode(engine, [one])["0-0"].token_ids.tolist()

    engine.load_weights(export_state(second.model))

    after = decode(engine, [one])["0-0"].token_ids.tolist()
    assert after == decode(make_engine(second), [one])["0-0"].token_ids.tolist() != before


def test_weights_are_not_replaced_while_responses_are_being_decoded(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine(tiny_model())
    engine.submit(_group(1))

    with pytest.raises(PlatformError) as caught:
        engine.load_weights(export_state(tiny_model().model))

    assert caught.value.code == "busy"


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape"])
def test_weights_of_another_model_are_refused_and_nothing_is_written(
    make_engine: MakeEngine, fault: str
) -> None:
    loaded = tiny_model.__wrapped__(seed=0)
    engine, one = make_engine(loaded), request(_prompt(9), decoding())
    expected = decode(engine, [one])["0-0"].token_ids.tolist()
    tensors = {name: tensor * 0 for name, tensor in export_state(loaded.model).items()}
    name, tensor = next(iter(tensors.items()))
    match fault:
        case "missing":
            del tensors[name]
        case "unexpected":
            tensors["model.extra"] = tensor
        case _:
            tensors[name] = tensor[:1]

    with pytest.raises(PlatformError) as caught:
        engine.load_weights(tensors)

    assert caught.value.code == "model_invalid"
    assert decode(engine, [one])["0-0"].token_ids.tolist() == expected


def test_an_aborted_engine_has_no_work_and_answers_as_before(make_engine: MakeEngine) -> None:
    engine, one = make_engine(tiny_model()), request(_prompt(9), decoding(max_new_tokens=60))
    expected = decode(engine, [one])["0-0"].token_ids.tolist()
    engine.submit(
        [request(_prompt(9), decoding(max_new_tokens=60), ledger=place) for place in range(1, 6)]
    )
    engine.step()

    engine.abort_all()

    assert not engine.has_work
    done = decode(engine, [one])
    assert {name: each.token_ids.tolist() for name, each in done.items()} == {"0-0": expected}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_size": 8}, "has block size 8"),
        ({"mask_token_id": 5}, "mask id 5"),
        ({"max_new_tokens": 300}, "the limit of the engine is 128"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_and_nothing_is_queued(
    make_engine: MakeEngine, changes: dict[str, int], message: str
) -> None:
    engine = make_engine(tiny_model())

    with pytest.raises(PlatformError, match=message) as caught:
        engine.submit([*_group(1), request(_prompt(3), decoding(**changes), index=1)])

    assert caught.value.code == "invalid_request"
    assert not engine.has_work


def test_work_is_counted(make_engine: MakeEngine) -> None:
    engine = make_engine(tiny_model())

    done = decode(engine, _group(4))

    assert engine.generated_tokens == sum(len(each.token_ids) for each in done.values()) == 64
    assert engine.busy_s > 0


def test_an_engine_that_sleeps_takes_no_requests_until_weights_are_loaded(
    make_engine: MakeEngine,
) -> None:
    loaded, one = tiny_model.__wrapped__(seed=0), request(_prompt(9), decoding())
    state = {name: tensor.clone() for name, tensor in export_state(loaded.model).items()}
    engine = make_engine(loaded)
    expected = decode(engine, [one])["0-0"].token_ids.tolist()

    engine.sleep()

    with pytest.raises(PlatformError, match="sleeps") as caught:
        engine.submit([one])
    assert (caught.value.code, engine.has_work) == ("busy", False)
    engine.load_weights(state)
    assert decode(engine, [one])["0-0"].token_ids.tolist() == expected


def test_an_engine_does_not_sleep_while_responses_are_being_decoded(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine(tiny_model())
    engine.submit(_group(1))

    with pytest.raises(PlatformError) as caught:
        engine.sleep()

    assert caught.value.code == "busy"


@pytest.mark.parametrize("record", [False, True])
def test_rejected_candidates_are_recorded_where_they_are_asked_for(
    make_engine: MakeEngine, record: bool
) -> None:
    changes = {"unmasking_strategy": "low_confidence_static", "record_candidates": record}
    done = decode(make_engine(tiny_model()), _group(3, 9, **changes))

    for each in done.values():
        candidates = each.rejected
        # Blocks of 3, 4, 4, 4 and 4 positions, one committed per step: the rest of each step is
        # rejected.
        assert len(candidates.step) == (3 + 4 * 6 if record else 0)
        assert (candidates.step < each.unmask_step[candidates.position]).all()
        assert (candidates.logprobs <= 0).all()
        places = list(zip(candidates.position.tolist(), candidates.step.tolist(), strict=True))
        assert places == sorted(set(places))
