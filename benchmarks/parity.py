"""How far the learner's log-probabilities are from the engine's on a CPU in fp32, and what closing
the gap costs.

A model of the demo's shape whose weights are half as large again, so that it is not as undecided as a fresh one; 1,024
responses of 16 tokens to 64 prompts, one thread. Two JSON lines: attention summed in fp64, as engine and learner do it,
and in fp32.
`gap` is |difference| / max(1, |log-prob|) over all tokens; seconds are CPU time of decoding, and of a forward and
backward pass over the packed rows.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # requests are built as the tests build them

from services.common.job_spec import TrainerSpec
from services.common.model import document_attention
from services.common.model.loading import LoadedModel, load_model
from services.common.model.tiny import make_tiny_model
from services.rollout.engines import kv_cache
from services.rollout.engines.base import GenerationRequest
from services.rollout.engines.torch_engine import TorchEngine
from services.trainer.training.policy import Policy, response_logprobs
from services.trainer.training.trajectory_rows import Sample, rl_rows
from tests.support.tiny_models import decode, decoding, request

GENERATIONS, NEW_TOKENS, PROMPT_TOKENS = 16, 16, (46, 54)


def make_model() -> LoadedModel:
    """The tiny model, sharpened."""
    with tempfile.TemporaryDirectory() as directory:
        make_tiny_model(directory, seed=1)
        loaded = load_model(Path(directory), "float32", "cpu")
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.mul_(1.5 if parameter.ndim > 1 else 1.0)
    return loaded


def make_requests(prompts: int) -> list[GenerationRequest]:
    """Random prompts of unaligned lengths, a group of responses each."""
    rng, config = np.random.default_rng(0), decoding(max_new_tokens=NEW_TOKENS)
    tokens = [rng.integers(0, 96, size=int(rng.integers(*PROMPT_TOKENS))) for _ in range(prompts)]
    pairs = [(place, index) for place in range(prompts) for index in range(GENERATIONS)]
    return [request(tokens[place], config, ledger=place, index=index) for place, index in pairs]


def sample(loaded: LoadedModel, requests: Sequence[GenerationRequest]) -> list[Sample]:
    """Decoded responses, as the learner gets them."""
    engine = TorchEngine(
        loaded, max_sequence_tokens=PROMPT_TOKENS[1] + NEW_TOKENS + 4, max_batch_size=128
    )
    done = decode(engine, list(requests))
    return [
        Sample(
            trajectory_id=each.request_id,
            prompt_ids=each.prompt_ids,
            response=done[each.request_id],
            advantage=1.0,
        )
        for each in requests
    ]


def measure(loaded: LoadedModel, requests: Sequence[GenerationRequest]) -> dict[str, Any]:
    """Gaps and seconds."""
    policy = Policy(loaded=loaded, trainer=TrainerSpec())
    samples, decode_s = _timed(lambda: sample(loaded, requests))
    computed = np.concatenate(response_logprobs(policy, samples)).astype(np.float64)
    recorded = np.concatenate([each.response.logprobs for each in samples]).astype(np.float64)
    gaps = np.abs(computed - recorded) / np.maximum(1, np.abs(recorded))
    _, train_s = _timed(lambda: _forward_backward(policy, samples))
    return {
        "tokens": len(gaps),
        "gap_max": float(gaps.max()),
        "gap_mean": float(gaps.mean()),
        "decode_cpu_s": round(decode_s, 2),
        "train_cpu_s": round(train_s, 2),
    }


def _forward_backward(policy: Policy, samples: Sequence[Sample]) -> None:
    for row in rl_rows(samples, **policy.layout):
        policy.score(row, 1.0)[0].sum().backward()  # type: ignore[no-untyped-call]


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    return work(), time.process_time() - began


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="four prompts: a test of the script")
    requests = make_requests(4 if parser.parse_args().quick else 64)
    torch.set_num_threads(1)
    loaded = make_model()
    print(
        json.dumps({"benchmark": "parity", "attention": "fp64", **measure(loaded, requests)}),
        flush=True,
    )
    for module in (document_attention, kv_cache):
        module.wide_dtype = lambda dtype: dtype  # type: ignore[attr-defined]
    print(
        json.dumps({"benchmark": "parity", "attention": "fp32", **measure(loaded, requests)}),
        flush=True,
    )


if __name__ == "__main__":
    main()
