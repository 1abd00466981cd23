"""The measured bias of every advantage, normaliser and filter, on models small enough to enumerate
every response.

Three random models over three tokens, blocks of two, two prompts drawn evenly, responses of up to
two blocks. For each setting the expected update of a step of one group of two is compared with the
gradient of the expected reward: `cosine` (direction), `length` (over that of the gradient; learning
rate and Adam absorb it) and `relative_error`, each as the least and the greatest of the models.
Rewards are arbitrary numbers, correct above 0.5, or (`binary`) 1 and 0; dynamic sampling drops
groups of equal correctness and replaces them by groups of fresh prompts.

On-policy the update is linear in the advantages, so the learner's gradients of single responses are
combined with its own advantages and weights; the tests let whole groups through the learner and
find the same.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the enumeration is the tests' own

from services.common.diffusion.config import DecodingConfig
from services.common.job_spec import RlSpec
from tests.support.enumeration import (
    ENTROPY_BOUNDED,
    MAX,
    SAMPLED,
    SEQUENTIAL,
    Bias,
    Enumeration,
    ScoredPrompts,
    toy_model,
)

PROMPTS = ([1, 2, 1], [2, 2, 2])
DECODINGS = {
    "max": (MAX, "accepted"),
    "sequential": (SEQUENTIAL, "accepted"),
    "entropy_bounded": (ENTROPY_BOUNDED, "accepted"),
    "max, all_candidates": (MAX, "all_candidates"),
    "sampled": (SAMPLED, "accepted"),
    "sampled, all_candidates": (SAMPLED, "all_candidates"),
}
ADVANTAGES, NORMALISERS = ("leave_one_out", "mean", "std"), ("constant", "token", "response")
EXACT = RlSpec(preset="exact")


def prompts(
    seeds: Sequence[int], decoding: DecodingConfig, estimator: str, *, binary: bool
) -> list[ScoredPrompts]:
    """The enumeration of every model."""
    threshold = 0.5 if binary else None
    return [
        ScoredPrompts(
            [Enumeration(model, prompt, decoding, estimator) for prompt in PROMPTS],
            correct_above=threshold,
        )
        for model in map(toy_model, seeds)
    ]


def line(
    models: Sequence[ScoredPrompts], rl: RlSpec, selection: str, rewards: str
) -> dict[str, object]:
    """One setting over all models."""
    found = [model.bias(rl) for model in models]
    return {
        "benchmark": "bias",
        "selection": selection,
        "rewards": rewards,
        "advantage": rl.advantage,
        "normaliser": rl.normaliser,
        "dynamic_sampling": rl.dynamic_sampling,
        **{name: _range(found, name) for name in ("cosine", "length", "relative_error")},
    }


def _range(found: Sequence[Bias], name: str) -> list[float]:
    values = [getattr(bias, name) for bias in found]
    return [float(f"{extreme(values):.4g}") for extreme in (min, max)]


def lines(seeds: Sequence[int]) -> Iterator[dict[str, object]]:
    """The table: first what decoding and estimator do to the exact preset, then every setting of
    the loss.
    """
    for name, (decoding, estimator) in DECODINGS.items():
        yield line(prompts(seeds, decoding, estimator, binary=False), EXACT, name, "numbers")
    for binary in (False, True):
        models = prompts(seeds, MAX, "accepted", binary=binary)
        for advantage, normaliser, dynamic in itertools.product(
            ADVANTAGES, NORMALISERS, ("off", "correctness")
        ):
            changes = {
                "advantage": advantage,
                "normaliser": normaliser,
                "dynamic_sampling": dynamic,
            }
            yield line(
                models, EXACT.model_copy(update=changes), "max", "binary" if binary else "numbers"
            )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one model instead of three")
    for each in lines((4,) if parser.parse_args().quick else (4, 5, 6)):
        print(json.dumps(each), flush=True)


if __name__ == "__main__":
    main()
