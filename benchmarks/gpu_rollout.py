"""The whole list for a GPU in one command: LMDeploy and TorchEngine, weights, sleep, and one
reinforcement step.

    python benchmarks/gpu_rollout.py --out gpu_rollout.json    # on a CUDA device with LMDeploy
    python benchmarks/gpu_rollout.py --dry-run                 # anywhere: tiny shapes, TorchEngine in both places

Sections, each with its own line of JSON, then a table and the file:

* smoke: a tiny SDAR model, 32 equal prompts (all responses must differ), prompts of 1 to 3 blocks, LMDeploy's recorded
  log-probabilities replayed by TorchEngine in the same dtype; then other weights in place, and again; with CUDA graphs
  and without. Bf16 rounds a log-probability of the two engines differently: the mean |difference| must be at most 0.05;
* throughput: random weights of the chosen shape, prompt 256, response 1024, batch 1, 32 and 128, both engines;
* update: seconds to load all weights in place from host memory, and those of sleep and of waking, with bytes;
* step: one on-policy step (rollout, verdicts, sleep, forward, backward and AdamW, waking with new weights) by phase.
  Rewards are drawn at random, since random weights solve nothing; verdicts are computed for their time alone. Beside it
  the published seconds (arXiv 2512.22234, figure 6: SDAR-8B on 8 H200, "batch size 4", input 1024, output 8192), which
  are of another size, length and number of devices: they cannot be compared.

A section that fails says why, and the other sections still run; the exit status then is 1.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import torch
import transformers
from math_verify import parse, verify
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from services.common.diffusion.config import DecodingConfig, Selection, UnmaskingStrategy
from services.common.job_metrics import JobMetric
from services.common.job_spec import parse_spec
from services.common.model.attention import IMPLEMENTATION
from services.common.model.loading import (
    LoadedModel,
    assemble,
    load_model,
    load_skeleton,
    save_model,
)
from services.common.model.remote_code.configuration_block_diffusion import SDARConfig
from services.common.model.sdar import SDARForCausalLM
from services.common.model.state import export_state
from services.common.parity import DenoisingPath
from services.common.trajectory import Response
from services.rollout.engines.base import GenerationRequest, RolloutEngine
from services.rollout.engines.torch_engine import TorchEngine
from services.trainer.training.policy_model import PolicyModel
from services.trainer.training.trajectory_rows import Sample

TOLERANCE: Final = 0.05
PUBLISHED_S: Final = {
    "TraceRL": {"load": 16, "rollout": 126, "train": 993, "update": 32},
    "DiRL": {"load": None, "rollout": 116, "train": 167, "update": 0.1},
}


@dataclass(frozen=True)
class Shape:
    """A model and how much of it is measured."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    prompt: int = 256
    response: int = 1024
    batches: tuple[int, ...] = (1, 32, 128)


SHAPES: Final = {
    "tiny": Shape(2, 128, 256, 2, 1, 64, 512, prompt=16, response=32, batches=(1, 4)),
    "1.7b": Shape(28, 2048, 6144, 16, 8, 128, 151936),
    "8b": Shape(36, 4096, 12288, 32, 8, 128, 151936),
}


class Bench:
    """Where engines run, and how they are opened."""

    def __init__(self, directory: Path, *, dry: bool) -> None:
        self.directory, self.dry = directory, dry
        self.device = "cpu" if dry else "cuda"
        self.dtype = "float32" if dry else "bfloat16"

    def model(self, shape: Shape, seed: int = 0) -> Path:
        """A directory of the shape with random weights; made once."""
        path = self.directory / f"{shape.layers}-{shape.hidden}-{seed}"
        if not path.is_dir():
            _write_model(shape, seed, path, self.dtype)
        return path

    @contextmanager
    def engine(
        self, kind: str, path: Path, tokens: int, batch: int, *, eager: bool = False
    ) -> Iterator[RolloutEngine]:
        """An engine with the directory's weights; everything is given back."""
        engine = self._open(kind, path, tokens, batch, eager)
        try:
            yield engine
        finally:
            engine.close()
            del engine
            gc.collect()
            if not self.dry:
                torch.cuda.empty_cache()

    def _open(self, kind: str, path: Path, tokens: int, batch: int, eager: bool) -> RolloutEngine:
        if kind == "torch" or self.dry:
            loaded = load_model(path, self.dtype, self.device)
            return TorchEngine(loaded, max_sequence_tokens=tokens, max_batch_size=batch)
        from services.rollout.engines import lmdeploy_backend, lmdeploy_engine  # noqa: PLC0415 - needs the package

        skeleton = load_skeleton(path, self.dtype, "meta")
        config = lmdeploy_backend.engine_config(skeleton, self.dtype, tokens, batch, 0.5)
        config.eager_mode = eager
        backend = lmdeploy_backend.open_backend(path, skeleton, config)
        return lmdeploy_engine.LMDeployEngine(backend, skeleton, max_sequence_tokens=tokens)

    def free_bytes(self) -> int:
        """Of the device."""
        if self.dry:
            return -int(psutil.Process().memory_info().rss)
        torch.cuda.synchronize()
        return int(torch.cuda.mem_get_info()[0])


def _write_model(shape: Shape, seed: int, path: Path, dtype: str) -> None:
    torch.manual_seed(seed)
    ids = shape.vocabulary - 8
    tokenizer = Tokenizer(
        WordLevel({f"t{number}": number for number in range(ids)}, unk_token="t0")
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="t1", pad_token="t1", mask_token=f"t{ids - 1}"
    )
    config = SDARConfig(  # type: ignore[call-arg]  # the signature lacks attn_implementation
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim, max_position_embeddings=32768, eos_token_id=1, tie_word_embeddings=False,
        attn_implementation=IMPLEMENTATION,
    )  # fmt: skip
    model = SDARForCausalLM(config).to(getattr(torch, dtype))
    save_model(assemble(model, fast, 4, ids - 1), path)


def _decoding(loaded_ids: int, tokens: int) -> DecodingConfig:
    """Training rollouts without an early end."""
    return DecodingConfig(
        block_size=4,
        denoising_steps=4,
        unmasking_strategy=UnmaskingStrategy.LOW_CONFIDENCE_DYNAMIC,
        confidence_threshold=0.9,
        entropy_bound=0.5,
        selection=Selection.MAX,
        mask_token_id=loaded_ids - 1,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_new_tokens=tokens,
        stop_token_ids=(),
    )


def _requests(
    shape: Shape, lengths: Sequence[int], tokens: int, *, equal: bool = False
) -> list[GenerationRequest]:
    rng, ids = np.random.default_rng(0), shape.vocabulary - 8
    prompts = [rng.integers(2, ids - 1, length).astype(np.int32) for length in lengths]
    return [
        GenerationRequest(
            request_id=str(number),
            prompt_ids=prompts[0] if equal else prompt,
            decoding=_decoding(ids, tokens),
            seed=0,
            ledger_position=0 if equal else number,
            response_index=number if equal else 0,
        )
        for number, prompt in enumerate(prompts)
    ]


def _decode(engine: RolloutEngine, requests: Sequence[GenerationRequest]) -> list[Response]:
    """Responses in the order of the requests."""
    engine.submit(requests)
    done: dict[str, Response] = {}
    while engine.has_work:
        done |= engine.step()
    return [done[request.request_id] for request in requests]


def _gaps(recorded: Sequence[Response], replayed: Sequence[np.ndarray]) -> dict[str, float]:
    differences = np.abs(
        np.concatenate([d.logprobs - r for d, r in zip(recorded, replayed, strict=True)])
    )
    return {"mean": float(differences.mean()), "max": float(differences.max())}


def smoke(bench: Bench, shape: Shape, *, eager: bool) -> dict[str, Any]:
    """See the module."""
    first, second = bench.model(shape, 0), bench.model(shape, 1)
    equal = _requests(shape, [8] * 32, 16, equal=True)
    mixed = _requests(shape, range(1, 13), 16)
    states = {
        path: export_state(load_model(path, bench.dtype, "cpu").model) for path in (first, second)
    }
    with bench.engine("lmdeploy", first, 64, 64, eager=eager) as engine:
        siblings, before = _decode(engine, equal), _decode(engine, mixed)
        engine.load_weights(states[second])
        after = _decode(engine, mixed)
        own = engine.replay(
            [_path(request, done) for request, done in zip(mixed, after, strict=True)]
        )
    with bench.engine("torch", first, 64, 64) as engine:
        gaps = [
            _gaps(before, engine.replay([_path(*pair) for pair in zip(mixed, before, strict=True)]))
        ]
        engine.load_weights(states[second])
        gaps.append(
            _gaps(after, engine.replay([_path(*pair) for pair in zip(mixed, after, strict=True)]))
        )
    distinct = len({each.token_ids.tobytes() for each in siblings})
    changed = sum(
        a.token_ids.tobytes() != b.token_ids.tobytes() for a, b in zip(before, after, strict=True)
    )
    ok = distinct == 32 and changed > 0 and all(gap["mean"] <= TOLERANCE for gap in gaps)
    return {
        "distinct_of_32": distinct,
        "gap_before": gaps[0],
        "gap_after_update": gaps[1],
        "gap_own_replay": _gaps(after, own),
        "responses_changed_by_update": changed,
        "tolerance_mean": TOLERANCE,
        "ok": ok,
    }


def _path(request: GenerationRequest, done: Response) -> DenoisingPath:
    return DenoisingPath(
        prompt_ids=request.prompt_ids, token_ids=done.token_ids, unmask_step=done.unmask_step
    )


def throughput(bench: Bench, shape: Shape, kind: str) -> dict[str, Any]:
    """Tokens per second by batch, after a short run to warm up."""
    found: dict[str, Any] = {}
    with bench.engine(
        kind, bench.model(shape), shape.prompt + shape.response, max(shape.batches)
    ) as engine:
        for batch in shape.batches:
            _decode(engine, _requests(shape, [shape.prompt] * batch, 8))
            began = time.perf_counter()
            done = _decode(engine, _requests(shape, [shape.prompt] * batch, shape.response))
            seconds, tokens = time.perf_counter() - began, sum(len(each.token_ids) for each in done)
            steps = sum(int(each.unmask_step.max()) for each in done)
            found[f"batch_{batch}"] = {
                "tokens_per_s": round(tokens / seconds, 1),
                "seconds": round(seconds, 2),
                "tokens_per_step": round(tokens / steps, 2),
            }
    return found


def update(bench: Bench, shape: Shape, kind: str) -> dict[str, Any]:
    """Loading in place, sleeping, waking."""
    path = bench.model(shape)
    state = export_state(load_model(path, bench.dtype, "cpu").model)
    num_bytes = sum(tensor.nbytes for tensor in state.values())
    with bench.engine(kind, path, shape.prompt + shape.response, max(shape.batches)) as engine:
        _decode(engine, _requests(shape, [shape.prompt], 8))
        load_s = min(_timed(bench, lambda: engine.load_weights(state)) for _ in range(3))
        awake = bench.free_bytes()
        sleep_s = _timed(bench, engine.sleep)
        gc.collect()
        asleep = bench.free_bytes()
        wake_s = _timed(bench, lambda: engine.load_weights(state))
        _decode(engine, _requests(shape, [shape.prompt], 8))
    return {
        "bytes": num_bytes,
        "load_s": load_s,
        "load_gib_per_s": round(num_bytes / 2**30 / load_s, 2),
        "sleep_s": sleep_s,
        "wake_s": wake_s,
        "bytes_given_back": asleep - awake,
    }


def _timed(bench: Bench, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if not bench.dry:
        torch.cuda.synchronize()
    return round(time.perf_counter() - began, 4)


def step(bench: Bench, shape: Shape) -> dict[str, Any]:
    """One reinforcement step by phase, trainer and LMDeploy time-sharing the device."""
    path, prompts, generations = bench.model(shape), 2 if bench.dry else 8, 4 if bench.dry else 8
    precision = "fp32" if bench.dry else "bf16"
    policy_model = _policy_model(load_model(path, "float32", bench.device), precision, shape)
    requests = _requests(shape, [shape.prompt] * (prompts * generations), shape.response)
    seconds: dict[str, float] = {}
    with bench.engine("lmdeploy", path, shape.prompt + shape.response, len(requests)) as engine:
        began = time.perf_counter()
        done = _decode(engine, requests)
        seconds["rollout"] = round(time.perf_counter() - began, 3)
        seconds["reward"] = _timed(bench, lambda: _judge(len(done)))
        seconds["sleep"] = _timed(bench, engine.sleep)
        metrics: dict[str, float] = {}
        seconds["train"] = _timed(
            bench, lambda: metrics.update(policy_model.train_rl(_samples(requests, done), 1e-6))
        )
        if not bench.dry:
            torch.cuda.empty_cache()
        tensors = {name: tensor.to("cpu") for name, tensor in policy_model.export_weights().items()}
        seconds["wake_and_update"] = _timed(bench, lambda: engine.load_weights(tensors))
    tokens = sum(len(each.token_ids) for each in done)
    gap = metrics.get(JobMetric.TRAIN_LOGPROB_GAP_MAX)
    return {"seconds": seconds, "responses": len(done), "response_tokens": tokens, "logprob_gap_max": gap,
            "published_seconds": PUBLISHED_S}  # fmt: skip


def _policy_model(loaded: LoadedModel, precision: str, shape: Shape) -> PolicyModel:
    spec = parse_spec({
        "model": "x", "method": "rl", "training_file": "x",
        "trainer": {"precision": precision, "seq_len": shape.prompt + shape.response, "gradient_checkpointing": True},
    })  # fmt: skip
    if precision == "bf16":
        enable = getattr(loaded.model, "activation_checkpointing_enable", None)
        (enable or loaded.model.gradient_checkpointing_enable)({"use_reentrant": False})
    loaded.model.train()
    policy_model = PolicyModel(loaded, spec)
    policy_model.begin_stage("rl", None, None)
    return policy_model


def _samples(requests: Sequence[GenerationRequest], done: Sequence[Response]) -> list[Sample]:
    """Advantages at random: half of the responses better, half worse."""
    signs = np.resize([1.0, -1.0], len(done))
    return [
        Sample(trajectory_id=request.request_id, prompt_ids=request.prompt_ids, response=each,
               advantage=float(sign), group=request.request_id)
        for request, each, sign in zip(requests, done, signs, strict=True)
    ]  # fmt: skip


def _judge(count: int) -> None:
    """As many comparisons of mathematics as there are responses, by the library under our verifier,
    in this process.
    """
    for number in range(count):
        verify(parse(f"${number}/7$"), parse(f"$\\frac{{{number}}}{{7}}$"))


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="tiny shapes on the CPU, TorchEngine in both places"
    )
    parser.add_argument("--shape", choices=("1.7b", "8b"), default="1.7b")
    parser.add_argument("--out", type=Path, help="file for everything as one JSON object")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        print(
            json.dumps(
                {"benchmark": "gpu_rollout", "missing": "a CUDA device; --dry-run needs none"}
            )
        )
        return 0
    shape = SHAPES["tiny" if options.dry_run else options.shape]
    with tempfile.TemporaryDirectory() as directory:
        results = _run(Bench(Path(directory), dry=options.dry_run), shape)
    report = {**_fields(options), "sections": results}
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _print_table(results)
    return (
        1
        if any("error" in result or result.get("ok") is False for result in results.values())
        else 0
    )


def _run(bench: Bench, shape: Shape) -> dict[str, dict[str, Any]]:
    modes = ("eager",) if bench.dry else ("eager", "graphs")
    sections: dict[str, Callable[[], dict[str, Any]]] = {
        **{
            f"smoke_{mode}": partial(smoke, bench, SHAPES["tiny"], eager=mode == "eager")
            for mode in modes
        },
        **{
            f"throughput_{kind}": partial(throughput, bench, shape, kind)
            for kind in ("torch", "lmdeploy")
        },
        **{f"update_{kind}": partial(update, bench, shape, kind) for kind in ("torch", "lmdeploy")},
        "step": partial(step, bench, shape),
    }
    results = {}
    for name, section in sections.items():
        began = time.perf_counter()
        try:
            found = section()
        except Exception as error:  # noqa: BLE001 - the other sections are still worth having
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"}
        results[name] = {**found, "section_s": round(time.perf_counter() - began, 1)}
        print(
            json.dumps({"benchmark": "gpu_rollout", "section": name, **results[name]}), flush=True
        )
    return results


def _fields(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "benchmark": "gpu_rollout",
        "dry_run": options.dry_run,
        "shape": "tiny" if options.dry_run else options.shape,
        "device": "cpu" if options.dry_run else torch.cuda.get_device_name(),
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "date": time.strftime("%Y-%m-%d"),
    }


def _print_table(results: dict[str, dict[str, Any]]) -> None:
    """A figure a line."""
    for section, found in results.items():
        for name, value in _flat(found):
            print(f"{section:<22} {name:<32} {value}")


def _flat(found: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in found.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


if __name__ == "__main__":
    sys.exit(main())
