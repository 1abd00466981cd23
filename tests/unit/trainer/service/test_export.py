"""Exports: a verified copy of the model, by one rename, as often as asked."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file

from services.common.checkpoint.format import ADAPTER, ADAPTER_CONFIG, CheckpointHeader
from services.common.checkpoint.store import write_checkpoint
from services.common.errors import PlatformError
from services.common.job_spec import LoraSpec
from services.common.model.loading import load_model, save_model
from services.common.model.state import export_state, own_state
from services.common.model.tiny import make_tiny_model
from services.common.weights import weight_digest
from services.trainer.service.export_checkpoint import PROVENANCE, export_checkpoint
from services.trainer.service.export_processes import ExportProcesses
from services.trainer.training.lora import (
    adapter_tensors,
    attach_adapter,
    describe_adapter,
    merge_adapter,
)
from tests.support.numerics import scores
from tests.support.tiny_models import tiny_model
from tests.support.trainer import wait_until


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    loaded = tiny_model()

    def payload(directory: Path) -> None:
        save_model(loaded, directory)
        (directory / "state.json").write_text("{}")
        (directory / "optimizer.safetensors").write_bytes(b"moments")

    header = make_header(weight_digest(export_state(loaded.model)))
    return write_checkpoint(tmp_path / "checkpoints", header, payload)[0]


def make_header(digest: str) -> CheckpointHeader:
    return CheckpointHeader(
        job_id="job_1",
        attempt=1,
        stage="rl",
        global_step=7,
        weight_version=7,
        weight_digest=digest,
        parent=None,
        model={},
        diffusion={},
        created_at=1.0,
    )


def digest_of(directory: Path) -> str:
    return weight_digest(export_state(load_model(directory, "float32", "cpu").model))


def test_an_export_is_the_model_alone_and_loads(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "models" / "model_1"

    export_checkpoint(checkpoint, output)

    assert digest_of(output) == weight_digest(export_state(tiny_model().model))
    names = {path.name for path in output.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", PROVENANCE} <= names
    assert not {"state.json", "optimizer.safetensors", "manifest.json"} & names
    assert [path.name for path in output.parent.iterdir()] == ["model_1"]


def test_the_same_export_again_does_nothing(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "model_1"
    export_checkpoint(checkpoint, output)
    before = (output / "model.safetensors").stat().st_mtime_ns

    export_checkpoint(checkpoint, output)

    assert (output / "model.safetensors").stat().st_mtime_ns == before


def test_a_directory_that_is_something_else_is_never_overwritten(
    checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "model_1"
    output.mkdir()
    (output / "mine.txt").write_text("mine")

    with pytest.raises(PlatformError) as caught:
        export_checkpoint(checkpoint, output)

    assert caught.value.code == "conflict"
    assert (output / "mine.txt").read_text() == "mine"


def test_a_damaged_checkpoint_is_not_exported(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "config.json").write_text("{}")

    with pytest.raises(PlatformError) as caught:
        export_checkpoint(checkpoint, tmp_path / "model_1")

    assert caught.value.code == "checkpoint_invalid"
    assert not (tmp_path / "model_1").exists()


def test_what_a_killed_export_left_is_replaced(checkpoint: Path, tmp_path: Path) -> None:
    left = tmp_path / ".partial-model_1"
    left.mkdir()
    (left / "junk").write_text("junk")

    export_checkpoint(checkpoint, tmp_path / "model_1")

    assert not (tmp_path / "model_1" / "junk").exists()
    assert not left.exists()


def test_exports_run_apart_from_the_service_and_report_how_they_ended(
    checkpoint: Path, tmp_path: Path
) -> None:
    exporter = ExportProcesses()
    (tmp_path / "taken").mkdir()

    assert exporter.status("export_1").state == "unknown"
    exporter.start("export_1", checkpoint, tmp_path / "model_1")
    exporter.start("export_2", checkpoint, tmp_path / "taken")
    with pytest.raises(PlatformError) as caught:
        exporter.start("export_3", checkpoint, tmp_path / "model_3")
    wait_until(
        lambda: "running" not in {exporter.status(f"export_{n}").state for n in (1, 2)},
        "the exports' end",
    )

    assert caught.value.code == "busy"
    assert exporter.status("export_1").state == "succeeded"
    assert exporter.start("export_1", checkpoint, tmp_path / "model_1").state == "succeeded"
    failed = exporter.status("export_2")
    assert failed.state == "failed"
    assert "exists and is not this export" in failed.error_message


def test_shutdown_ends_a_running_export(checkpoint: Path, tmp_path: Path) -> None:
    exporter = ExportProcesses()
    exporter.start("export_1", checkpoint, tmp_path / "model_1")

    exporter.shutdown()

    assert exporter.status("export_1").state == "unknown"


def test_exporting_needs_no_torch() -> None:
    program = (
        "import sys, services.trainer.service.export_checkpoint; sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# Of peft, which reads an attribute that transformers renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_a_lora_export_has_its_adapter_as_peft_reads_it(tmp_path: Path) -> None:
    """The base model with the adapter gives the scores of the merged export."""
    base, output = tmp_path / "base", tmp_path / "out"
    make_tiny_model(base, seed=0, hidden_size=16, layers=2, heads=2)
    trained = load_model(base, "float32", "cpu")
    spec = LoraSpec(rank=3, alpha=6, target_modules=("q_proj", "down_proj"))
    attach_adapter(trained, spec, seed=1)
    for name, parameter in trained.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(2))
    state = own_state(trained.model)
    digest = weight_digest(export_state(trained.model, merge_adapter(trained.model, state)))

    def payload(directory: Path) -> None:
        save_model(trained, directory, merge_adapter(trained.model, state))
        save_file(adapter_tensors(state), directory / ADAPTER)
        described = describe_adapter(trained.model, spec, str(base))
        (directory / ADAPTER_CONFIG).write_text(described)

    checkpoint, _ = write_checkpoint(tmp_path / "checkpoints", make_header(digest), payload)
    export_checkpoint(checkpoint, output)

    assert not (output / ADAPTER_CONFIG).exists()
    plain, merged = load_model(base, "float32", "cpu"), load_model(output, "float32", "cpu")
    adapted = PeftModel.from_pretrained(plain.model, output / "adapter")
    assert adapted.peft_config["default"].base_model_name_or_path == str(base)
    unchanged = scores(load_model(base, "float32", "cpu"))
    assert not torch.allclose(unchanged, scores(merged), atol=1e-3)
    torch.testing.assert_close(scores(plain), scores(merged), rtol=1e-4, atol=1e-4)
