"""What a learner trains: where its weights, adapter and reference policy come from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from services.common.checkpoint.format import ADAPTER
from services.common.errors import PlatformError
from services.common.job_spec import JobSpec
from services.common.model.loading import LoadedModel, load_model, save_model
from services.common.model.tiny import make_tiny_model
from services.trainer.training.policy_model import PolicyModel, _recompute_activations
from services.trainer.training.ranks import ALONE, Ranks
from services.trainer.training.sft import SftExample
from tests.support.numerics import random_samples, row_of, scores

ADAPTED = {"lora": {"rank": 3}}


def spec_of(**sections: Any) -> JobSpec:
    optim = {"lr": 1e-2}
    return JobSpec.model_validate(
        {"model": "m", "method": "rl", "training_file": "f", "optim": optim, **sections}
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    make_tiny_model(tmp_path / "model", seed=0, hidden_size=16, layers=2, heads=2)
    return tmp_path / "model"


def examples_of(loaded: LoadedModel) -> list[SftExample]:
    return [
        SftExample(prompt_ids=s.prompt_ids, token_ids=s.response.token_ids)
        for s in random_samples(loaded, 4)
    ]


def train(policy_model: PolicyModel, steps: int = 2) -> None:
    policy_model.begin_stage("sft", None, None)
    for step in range(1, steps + 1):
        policy_model.train_sft(examples_of(policy_model.loaded), step, 1e-2)


def write_checkpoint(policy_model: PolicyModel, path: Path) -> Path:
    snapshot = policy_model.take_snapshot()
    save_model(policy_model.loaded, path, dict(snapshot.weights))
    if snapshot.adapter:
        tensors = {name: tensor.contiguous() for name, tensor in snapshot.adapter.items()}
        save_file(tensors, path / ADAPTER)
    return path


@pytest.mark.parametrize("sections", [{}, ADAPTED], ids=["all weights", "adapter"])
def test_a_checkpoint_is_where_training_left_it(
    model: Path, tmp_path: Path, sections: dict[str, Any]
) -> None:
    spec = spec_of(**sections)
    trained = PolicyModel.load(model, spec, None, ALONE)
    initial = scores(trained.loaded)
    train(trained)
    checkpoint = write_checkpoint(trained, tmp_path / "checkpoint")

    resumed = PolicyModel.load(model, spec, checkpoint, ALONE)

    assert not torch.allclose(scores(trained.loaded), initial)
    assert torch.equal(scores(resumed.loaded), scores(trained.loaded))
    exported, expected = resumed.export_weights(), trained.export_weights()
    assert exported.keys() == expected.keys()
    assert all(torch.equal(exported[name], expected[name]) for name in expected)
    assert not [name for name in exported if "lora" in name]


def test_an_adapter_is_merged_into_what_is_exported(model: Path) -> None:
    adapted = PolicyModel.load(model, spec_of(**ADAPTED), None, ALONE)
    before = {name: tensor.clone() for name, tensor in adapted.export_weights().items()}
    train(adapted)

    after = adapted.export_weights()

    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert "model.layers.0.self_attn.q_proj.weight" in changed
    assert "model.embed_tokens.weight" not in changed


def test_a_checkpoint_without_the_adapter_of_the_job_is_refused(
    model: Path, tmp_path: Path
) -> None:
    whole = PolicyModel.load(model, spec_of(), None, ALONE)
    checkpoint = write_checkpoint(whole, tmp_path / "checkpoint")

    with pytest.raises(PlatformError, match="holds none") as caught:
        PolicyModel.load(model, spec_of(**ADAPTED), checkpoint, ALONE)
    assert caught.value.code == "checkpoint_invalid"


def test_recomputed_activations_change_no_gradient(model: Path) -> None:
    plain, sparing = (
        PolicyModel.load(model, spec_of(trainer={"gradient_checkpointing": on}), None, ALONE)
        for on in (False, True)
    )

    assert not plain.loaded.model.is_activation_checkpointing
    assert sparing.loaded.model.is_activation_checkpointing
    assert sparing.loaded.model.training
    for each in (plain, sparing):
        train(each, steps=1)
    torch.testing.assert_close(scores(plain.loaded), scores(sparing.loaded))


@pytest.mark.parametrize("sections", [{}, ADAPTED], ids=["second copy", "adapter off"])
def test_the_reference_policy_stays_where_the_stage_began(
    model: Path, sections: dict[str, Any]
) -> None:
    policy_model = PolicyModel.load(model, spec_of(**sections), None, ALONE)
    row, initial = row_of(policy_model.loaded), scores(policy_model.loaded)
    train(policy_model)

    policy_model.begin_stage("rl", None, model)

    reference = policy_model._policy.reference
    assert reference is not None
    torch.testing.assert_close(reference.logprobs(row, 1.0), initial)
    assert not torch.allclose(scores(policy_model.loaded), initial)
    frozen = getattr(reference, "_loaded", None)
    assert frozen is None or not any(p.requires_grad for p in frozen.model.parameters())
    # An adapter on the reference itself is switched off; anything else is a copy of its own.
    assert ("AdapterOff" in type(reference).__name__) == bool(sections)


def test_an_adapter_on_other_weights_than_the_reference_needs_a_second_copy(
    model: Path, tmp_path: Path
) -> None:
    make_tiny_model(tmp_path / "other", seed=1, hidden_size=16, layers=2, heads=2)
    policy_model = PolicyModel.load(model, spec_of(**ADAPTED), None, ALONE)

    policy_model.begin_stage("rl", None, tmp_path / "other")

    reference = policy_model._policy.reference
    assert reference is not None
    other = load_model(tmp_path / "other", "float32", "cpu")
    row = row_of(policy_model.loaded)
    torch.testing.assert_close(reference.logprobs(row, 1.0), scores(other))


class ScriptedRanks(Ranks):
    """A rank that is told what rank 0 calls, and has all of the rows."""

    def __init__(self, calls: list[Any]) -> None:
        super().__init__(rank=1, size=1)
        object.__setattr__(self, "calls", iter([*calls, None]))

    def share_rows(self, rows: Sequence[Any]) -> list[tuple[Any, bool]]:
        return [(row, True) for row in rows]

    def broadcast(self, value: Any = None) -> Any:
        return next(self.calls)  # type: ignore[attr-defined]


def test_a_following_rank_makes_the_calls_of_the_leader_until_it_is_dismissed(model: Path) -> None:
    leader = PolicyModel.load(model, spec_of(), None, ALONE)
    examples = examples_of(leader.loaded)
    calls = [
        ("begin_stage", ("sft", None, None), {}),
        ("train_sft", (examples,), {"step": 1, "lr": 1e-2}),
        ("train_sft", (examples, 2, 1e-2), {}),
    ]
    follower = PolicyModel.load(model, spec_of(), None, ScriptedRanks(calls))
    train(leader)

    follower.follow_leader()

    assert torch.equal(scores(follower.loaded), scores(leader.loaded))


def test_work_is_handed_over_once(model: Path) -> None:
    policy_model = PolicyModel.load(model, spec_of(), None, ALONE)
    train(policy_model, steps=1)

    assert policy_model.take_work().tokens > 0
    assert policy_model.take_work().tokens == 0


def test_held_out_loss_draws_the_same_noise_every_time(model: Path) -> None:
    policy_model = PolicyModel.load(model, spec_of(), None, ALONE)
    examples = examples_of(policy_model.loaded)

    first, second = (policy_model.sft_loss(examples) for _ in range(2))
    policy_model.revise(spec_of(seed=7))

    assert first == second
    assert policy_model.sft_loss(examples) != first


def test_an_optimizer_resumes_from_the_moments_of_a_checkpoint(model: Path, tmp_path: Path) -> None:
    whole, halves = (PolicyModel.load(model, spec_of(), None, ALONE) for _ in range(2))
    examples = examples_of(whole.loaded)
    for each in (whole, halves):
        train(each)
    save_file(dict(halves.take_snapshot().moments), tmp_path / "moments.safetensors")

    halves.begin_stage("sft", tmp_path / "moments.safetensors", None)

    for each in (whole, halves):
        each.train_sft(examples, 3, 1e-2)
    assert torch.equal(scores(whole.loaded), scores(halves.loaded))


class ModelOf:
    """A model of a release of transformers, as far as recomputation goes."""

    def __init__(self, name: str) -> None:
        self.asked: list[Any] = []
        setattr(self, name, self.asked.append)

    def train(self) -> None:
        self.asked.append("train")


@pytest.mark.parametrize(
    "name", ["activation_checkpointing_enable", "gradient_checkpointing_enable"]
)
def test_activations_are_recomputed_under_the_name_of_any_release(name: str) -> None:
    model: Any = ModelOf(name)

    _recompute_activations(model)

    assert model.asked == [{"use_reentrant": False}, "train"]
