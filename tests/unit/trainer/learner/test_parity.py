"""The learner's probe and the engine's replay of it."""

import numpy as np
import pytest
import torch

from services.common.errors import PlatformError
from services.common.job_spec import parse_spec
from services.common.model.loading import LoadedModel
from services.common.parity import DenoisingPath, ParityProbe, probe_from_pb, probe_to_pb
from services.rollout.engines.torch_engine import TorchEngine
from services.trainer.learner.parity import ParityGate, make_parity_gate
from services.trainer.training.policy_model import PolicyModel
from tests.support.tiny_models import decode, decoding, request, tiny_model

SPEC = parse_spec({"model": "m", "method": "rl", "training_file": "rows.jsonl"})
PROMPTS = [np.arange(length, dtype=np.int32) for length in (1, 7, 16, 21)]


def gate(loaded: LoadedModel, max_new_tokens: int = 100) -> ParityGate:
    return make_parity_gate(PROMPTS, loaded, seed=3, max_new_tokens=max_new_tokens, tolerance=1e-4)


def engine(loaded: LoadedModel) -> TorchEngine:
    return TorchEngine(loaded, max_sequence_tokens=64, max_batch_size=2)


@pytest.mark.parametrize("block_size", [1, 2, 4, 8, 16])
def test_an_engine_with_the_learners_weights_reproduces_the_probe(block_size: int) -> None:
    loaded = tiny_model(block_size=block_size)
    probe = gate(loaded).probe(PolicyModel(loaded, SPEC))

    assert {len(path.token_ids) > block_size for path in probe.paths} == {True}
    assert probe.gap(engine(loaded).replay(probe.paths)) <= 1e-5


@pytest.mark.parametrize(
    "name", ["model.layers.1.self_attn.v_proj.weight", "model.layers.0.mlp.up_proj.weight"]
)
def test_one_matrix_that_is_off_by_a_percent_shows(name: str) -> None:
    probe = gate(tiny_model()).probe(PolicyModel(tiny_model(), SPEC))
    corrupted = tiny_model.__wrapped__()
    corrupted.model.get_parameter(name).data *= 1.01

    assert probe.gap(engine(corrupted).replay(probe.paths)) > probe.tolerance


def test_the_probe_is_the_same_for_every_attempt_and_fits_the_budget() -> None:
    one, two = gate(tiny_model(), max_new_tokens=3), gate(tiny_model(), max_new_tokens=3)

    assert [path.token_ids.tolist() for path in one.paths] == [
        path.token_ids.tolist() for path in two.paths
    ]
    assert [len(path.token_ids) for path in one.paths] == [
        3,
        5,
        4,
        3,
    ]  # three tokens, rounded up to whole blocks of 4


def test_replaying_what_an_engine_decoded_gives_the_logprobs_that_it_recorded() -> None:
    loaded = tiny_model()
    done = decode(engine(loaded), [request(PROMPTS[1], decoding(max_new_tokens=20))])["0-0"]
    path = DenoisingPath(
        prompt_ids=PROMPTS[1], token_ids=done.token_ids, unmask_step=done.unmask_step
    )

    (replayed,) = engine(loaded).replay([path])

    np.testing.assert_allclose(replayed, done.logprobs, rtol=0, atol=2e-6)


def test_a_path_whose_steps_go_back_is_refused_instead_of_waited_for() -> None:
    steps = np.array([2, 2, 1, 1, 1, 1, 1, 1], np.int32)
    path = DenoisingPath(prompt_ids=PROMPTS[2], token_ids=np.zeros(8, np.int32), unmask_step=steps)

    with pytest.raises(PlatformError, match="of an earlier one"):
        engine(tiny_model()).replay([path])


def test_a_logprob_that_is_not_a_number_is_infinitely_far_and_a_probe_survives_the_wire() -> None:
    probe = ParityProbe(
        paths=gate(tiny_model()).paths[:1],
        logprobs=(np.array([-4.0, -0.5], np.float32),),
        tolerance=1,
    )

    back = probe_from_pb(probe_to_pb(probe))

    assert back is not None
    assert back.gap([np.array([-5.0, -0.75], np.float32)]) == 0.25  # max(1 / 4, 0.25 / 1)
    assert back.gap([np.array([-4.0, np.nan], np.float32)]) == float("inf")
    assert torch.equal(
        torch.from_numpy(back.paths[0].unmask_step), torch.from_numpy(probe.paths[0].unmask_step)
    )
