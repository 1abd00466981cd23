from pathlib import Path
from typing import Any, cast

import pytest

from services.common.job_spec import LoraSpec, OptimSpec
from services.common.model.loading import load_model
from services.common.model.tiny import make_tiny_model
from services.trainer.learner.journal import Journal
from services.trainer.learner.setting_warnings import warn_about_experts, warn_about_warmup
from services.trainer.training.lora import attach_adapter


class Said:
    """A journal that keeps what it is told."""

    def __init__(self) -> None:
        self.warnings: list[tuple[str, str]] = []

    def say(self, level: str, code: str, message: str, **_fields: Any) -> None:
        assert level == "warning"
        self.warnings.append((code, message))


@pytest.mark.parametrize(("warmup_steps", "warned"), [(0, False), (10, False), (11, True)])
def test_a_warm_up_longer_than_the_stage_is_a_warning(warmup_steps: int, warned: bool) -> None:
    said = Said()

    optim = OptimSpec(lr=1e-3, warmup_steps=warmup_steps)
    warn_about_warmup(cast("Journal", said), optim, "sft", 10)

    assert [code for code, _ in said.warnings] == ["warmup_exceeds_stage"] * warned
    assert all("ends at 0.000909" in message for _, message in said.warnings)


@pytest.mark.parametrize("moe", [False, True])
def test_an_adapter_that_leaves_experts_as_they_are_is_a_warning(tmp_path: Path, moe: bool) -> None:
    make_tiny_model(tmp_path, seed=0, hidden_size=16, layers=1, heads=2, moe=moe)
    loaded = load_model(tmp_path, "float32", "cpu")
    attach_adapter(loaded, LoraSpec(rank=2), 0)
    said = Said()

    warn_about_experts(cast("Journal", said), loaded.model)

    assert [code for code, _ in said.warnings] == ["adapter_skips_experts"] * moe
