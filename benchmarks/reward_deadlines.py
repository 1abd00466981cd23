"""Does any verdict come later than its deadline and 0.3 s? Every hostile input that we have, in a real
reward service.

Inputs: the hostile responses of the soak test, runs of every class of characters in every frame of the
extraction tests at 200,000 characters, hostile answers at the limit of length against reference answers
of every type, the expressions of the tests of the guard, golden answers of which one side is cut or
changed at random, and reference answers that are hostile themselves. One call for each, so that its time
is that of a verdict: transport, extraction, rules, queue and worker. One JSON line per source: inputs,
outcomes, the slowest with its time; the last line counts verdicts later than the deadline and 0.3 s.
"""

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from reward_inputs import Pair, hostile_responses
from reward_soak import ADDRESS, start

from services.common.codec import verdict_from_pb
from services.common.pb.dirl.v1 import reward_pb2, reward_pb2_grpc
from services.common.rpc.client import call, channel
from tests.support.hostile_text import CLASSES, fill
from tests.unit.reward.test_cost import FRAMES
from tests.unit.reward.test_guard import REFUSED

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 1.0
MARGIN_S = 0.3
RESPONSE_CHARS = 200_000
ANSWER_CHARS = 1490
REFERENCES = (
    "1",
    "(1,2)",
    "x=2",
    r"\frac{\sqrt{3}}{2}",
    r"(-\infty,3)",
    r"\sum_{k=1}^{n} k",
    r"\text{Paris}",
    "5 m",
)
PIECES = (
    "1", "x", r"\frac{", "}", "{", "(", ")", "^", "_", "!", "+", "-", "=", "<", ",", r"\sqrt", r"\sum_{i=1}^", r"\int",
    r"\log", r"\sin", r"\pi", r"\infty", r"\cup", r"\pm", "|", "^{9999}", r"\binom{999}{99}",
)  # fmt: skip


def sources(count: int) -> Iterator[tuple[str, list[Pair]]]:
    """Name and pairs of each source; `count` pairs of the random ones."""
    rng = random.Random(0)
    yield "responses of the soak test", [("42", text) for text in hostile_responses()]
    yield (
        "runs in responses",
        [
            ("1", FRAMES[frame].format(fill(one, RESPONSE_CHARS)))
            for one in CLASSES.values()
            for frame in FRAMES
        ],
    )
    yield (
        "runs in answers",
        [
            (reference, rf"\boxed{{1{fill(one, ANSWER_CHARS)}x}}")
            for one in CLASSES.values()
            for reference in REFERENCES
        ],
    )
    yield (
        "expressions of the guard",
        [
            pair
            for text, _ in REFUSED
            for reference in (*REFERENCES, text + "+1")
            for pair in ((reference, rf"\boxed{{{text}}}"), (text, rf"\boxed{{{reference}}}"))
        ],
    )
    golden = [
        json.loads(line)
        for name in ("reward_cases.jsonl", "reward_policy_cases.jsonl")
        for line in (ROOT / "tests/golden" / name).read_text().split("\n")
        if line
    ]
    yield "golden answers, changed at random", [_change(rng, golden) for _ in range(count)]
    yield (
        "pieces of formulas",
        [
            (
                rng.choice(REFERENCES),
                rf"\boxed{{{''.join(rng.choices(PIECES, k=rng.randrange(2, 40)))}}}",
            )
            for _ in range(count)
        ],
    )


def _change(rng: random.Random, golden: list[dict[str, str]]) -> Pair:
    case = rng.choice(golden)
    sides = [case["gold"], case["answer"]]
    side = rng.randrange(2)
    text = sides[side]
    first, last = sorted(rng.randrange(len(text) + 1) for _ in range(2))
    sides[side] = text[:first] + rng.choice(PIECES) + text[last:]
    return sides[0] or "1", rf"\boxed{{{sides[1]}}}"


def measure(stub: reward_pb2_grpc.RewardServiceStub, name: str, pairs: list[Pair]) -> int:
    """Grade the pairs one by one in both profiles, report, and return how many were late."""
    outcomes: Counter[str] = Counter()
    slowest, late = (0.0, ""), 0
    for reference, response in pairs:
        for profile in ("rl", "eval"):
            request = reward_pb2.VerifyRequest(
                items=[
                    reward_pb2.VerifyItem(
                        reference_answer=_to_utf8(reference),
                        response=_to_utf8(response),
                        finish_reason="stop",
                    )
                ],
                graders=["accuracy"],
                profile=profile,
                timeout_s=TIMEOUT_S,
            )
            started = time.monotonic()
            reply = call(stub.Verify, request, timeout_s=60, what="Verify")
            seconds = time.monotonic() - started
            outcomes[verdict_from_pb(reply.verdicts[0]).outcome.value] += 1
            late += seconds > TIMEOUT_S + MARGIN_S
            slowest = max(slowest, (seconds, f"{reference[:40]} | {response[:80]}"))
    line = {"source": name, "verdicts": 2 * len(pairs), "outcomes": outcomes, "late": late}
    print(json.dumps({**line, "slowest_s": round(slowest[0], 3), "input": slowest[1]}), flush=True)
    return late


def _to_utf8(text: str) -> str:
    return text.encode(errors="replace").decode()


def main() -> None:
    """Entry point; exits with 1 if a verdict was late."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="100 random inputs of each kind")
    count = 100 if parser.parse_args().quick else 3000
    service = start()
    try:
        with channel(ADDRESS) as connection:
            stub = reward_pb2_grpc.RewardServiceStub(connection)
            late = sum(measure(stub, name, pairs) for name, pairs in sources(count))
    finally:
        service.terminate()
        service.wait(30)
    print(json.dumps({"deadline_s": TIMEOUT_S, "margin_s": MARGIN_S, "late": late}))
    raise SystemExit(late > 0)


if __name__ == "__main__":
    main()
