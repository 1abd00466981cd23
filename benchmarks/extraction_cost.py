r"""CPU time of extraction against the length of the response, for runs of every class of characters.

A line per class: `\boxed{1`, the run, `x}`, extracted with the rules of evaluation. The least of three times, in
milliseconds; `growth` is the time at the greatest length over that at half of it.
"""

import argparse
import json

from services.reward.extraction import Profile, extract
from tests.support.cost import cpu_seconds
from tests.support.hostile_text import CLASSES, fill

LENGTHS = (1_000, 10_000, 100_000, 200_000)


def main() -> None:
    """Entry point."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name, one in CLASSES.items():
        times = [
            min(
                cpu_seconds(
                    lambda text: extract(text, Profile.EVAL),
                    rf"\boxed{{1{fill(one, length)}x}}",
                )
                for _ in range(3)
            )
            for length in LENGTHS
        ]
        line = {
            "class": name,
            "ms": {
                length: round(1000 * each, 3) for length, each in zip(LENGTHS, times, strict=True)
            },
            "growth": round(times[-1] / times[-2], 2),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
