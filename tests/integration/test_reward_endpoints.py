"""Judges and graders over HTTP: what they are sent, and every way in which they fail."""

import json
import threading
import time
from typing import Any

import pytest

from services.common.errors import PlatformError
from services.common.grader_spec import parse_grader
from services.common.signatures import signed_headers
from services.common.trajectory import Outcome
from services.reward.cancellation import Cancellation
from services.reward.endpoints import Endpoint, Endpoints
from services.reward.extraction import Extraction
from services.reward.graders import Installation, make_graders, make_scorer, score_all
from services.reward.scores import GradedResponse, GraderFailure, GradingLimits, Meter, Score
from tests.support.http_stubs import Answer, HttpStub, Reply, Request, chat_reply, http_stub

SCORE = {
    "name": "judge",
    "type": "score_model",
    "model": "m",
    "range": [0, 10],
    "input": [
        {"role": "system", "content": "Grade."},
        {"role": "user", "content": "{{item.question}}: {{ sample.output_text }}"},
    ],
}
LABEL = {
    "name": "judge",
    "type": "label_model",
    "model": "m",
    "labels": ["good", "bad", "unclear"],
    "passing_labels": ["good"],
    "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
}
OWN = {"name": "own", "type": "endpoint", "endpoint": "own", "timeout_s": 5, "deadline_s": 5}
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def graded(text: str) -> GradedResponse:
    return GradedResponse(
        response=text,
        extraction=Extraction(),
        outcome=Outcome.SCORED,
        row={"question": "q", "tests": [1]},
    )


def installation_at(stub: HttpStub, **options: Any) -> Installation:
    endpoint = Endpoint.model_validate({"url": stub.url, **options})
    return Installation(Endpoints({"judge": endpoint, "own": endpoint}), frozenset())


def run(
    grader: Any,
    answer: Answer,
    *texts: str,
    limits: GradingLimits | None = None,
    **options: Any,
) -> tuple[list[Score], list[Request]]:
    """Scores of the responses, and the requests that were made for them."""
    with http_stub(answer) as stub:
        scorer = make_scorer(parse_grader(grader), installation_at(stub, **options))
        scores = scorer([graded(text) for text in texts or ("a",)], limits or GradingLimits())
    return scores, stub.requests


def test_a_judge_is_asked_for_every_response_and_its_tokens_are_counted() -> None:
    def answer(request: Request) -> Reply:
        text = request.body["messages"][-1]["content"]
        return chat_reply(json.dumps({"result": 7 if "q: good" in text else 2}), tokens=11)

    meter = Meter()
    grader = {**SCORE, "sampling_params": {"temperature": 0, "max_completions_tokens": 5}}
    scores, requests = run(
        grader, answer, "good", "other", limits=GradingLimits(meter=meter), api_key="key-1"
    )
    assert scores == [7.0, 2.0]
    assert meter.judge_tokens == 22
    (request,) = [one for one in requests if "q: good" in one.text]
    assert (request.path, request.headers["authorization"]) == ("/chat/completions", "Bearer key-1")
    assert request.body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Grade."},
            {
                "role": "user",
                "content": 'q: good\n\nReply with JSON only: {"result": a number from 0 to 10}.',
            },
        ],
        "temperature": 0.0,
        "max_completion_tokens": 5,
    }


@pytest.mark.parametrize(
    "said",
    [
        "7",
        " 7.0 ",
        '{"result": 7}',
        '{"score": 7}',
        '```json\n{"result": 7}\n```',
        "<think>3</think>7",
    ],
)
def test_a_judge_may_write_its_score_in_several_ways(said: str) -> None:
    assert run(SCORE, lambda _request: chat_reply(said))[0] == [7.0]


@pytest.mark.parametrize(
    "said",
    [
        "",
        "7 out of 10",
        "11",
        "-1",
        "NaN",
        "Infinity",
        "true",
        '"high"',
        "[7]",
        '{"result": null}',
        "9" * 400,
    ],
)
def test_what_a_judge_says_beside_a_score_never_becomes_a_number(said: str) -> None:
    (score,), requests = run(SCORE, lambda _request: chat_reply(said))
    assert isinstance(score, GraderFailure)
    assert score.reason == "endpoint_failed"
    assert "the judge said" in score.detail
    assert len(requests) == 3


def test_a_label_scores_by_whether_it_passes() -> None:
    said = {"a": "good", "b": '{"result": "bad"}', "c": "Unclear.", "d": '"unclear"'}

    def answer(request: Request) -> Reply:
        return chat_reply(said[request.body["messages"][0]["content"][0]])

    scores, _ = run(LABEL, answer, *said)
    assert scores[0] == 1.0
    assert scores[1] == scores[3] == 0.0
    assert isinstance(scores[2], GraderFailure)
    assert "the labels are ['good', 'bad', 'unclear']" in scores[2].detail


def test_a_row_without_the_field_of_a_template_is_not_sent() -> None:
    grader = {**LABEL, "input": [{"role": "user", "content": "{{ item.absent }}"}]}
    scores, requests = run(grader, lambda _request: chat_reply("good"))
    assert scores == [GraderFailure("missing_field", "the row has no item.absent")]
    assert requests == []


def test_an_endpoint_gets_the_batch_and_its_signature() -> None:
    def answer(request: Request) -> Reply:
        texts = [one["sample"]["output_text"] for one in request.body["responses"]]
        return Reply({"scores": [len(text) for text in texts]})

    scores, (request,) = run(OWN, answer, "a", "bbb", secret=SECRET)
    assert scores == [1.0, 3.0]
    first = request.body["responses"][0]
    assert (request.body["grader"], first["item"]) == ("own", {"question": "q", "tests": [1]})
    stamp, message_id = request.headers["webhook-timestamp"], request.headers["webhook-id"]
    signed = signed_headers(SECRET, message_id, int(stamp), request.text)
    assert request.headers["webhook-signature"] == signed["webhook-signature"]


def test_a_response_without_a_score_leaves_its_neighbours_alone() -> None:
    values = [
        1,
        None,
        "high",
        True,
        {"score": 0.5},
        {"score": None, "reason": "no tests \ud800"},
        float("nan"),
        10**400,
    ]

    with http_stub(lambda _request: Reply({"scores": values})) as stub:
        graders = make_graders([json.dumps(OWN)], installation_at(stub))
        grades = score_all(graders, [graded("a")] * len(values), GradingLimits())
    scores = [one.scores["own"] for one in grades]
    assert (scores[0], scores[4]) == (1.0, 0.5)
    failures = [score for score in scores if isinstance(score, GraderFailure)]
    assert [failure.reason for failure in failures] == ["endpoint_no_score"] * 4 + [
        "not_finite"
    ] * 2
    assert failures[3].detail == "no tests ?"
    assert all(failure.detail.encode() for failure in failures)


@pytest.mark.parametrize(
    ("first", "tries"),
    [
        (Reply("oops", status=500), 2),
        (Reply("busy", status=429), 2),
        (Reply("not json"), 2),
        (Reply([1]), 2),
        (Reply({"scores": 1}), 2),
        (Reply({"scores": []}), 2),
        (Reply({"scores": [1, 1]}), 2),
    ],
)
def test_an_endpoint_that_fails_once_is_asked_again(first: Reply, tries: int) -> None:
    replies = iter([first, Reply({"scores": [0.5]})])
    scores, requests = run(OWN, lambda _request: next(replies))
    assert scores == [0.5]
    assert len(requests) == tries
    assert len({request.headers.get("webhook-id") for request in requests}) == 1


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply({"scores": [1]}), "1 scores came for 2 responses"),
        (Reply("x" * 50), "the reply is not JSON: xxx"),
        (Reply({"result": 1}), 'the reply must be {"scores": [...]}'),
    ],
)
def test_replies_that_stay_unusable_make_the_batch_unverifiable(reply: Reply, said: str) -> None:
    scores, requests = run(OWN, lambda _request: reply, "a", "b")
    assert {type(score) for score in scores} == {GraderFailure}
    assert said in scores[0].detail  # type: ignore[union-attr]
    assert len(requests) == 3


def test_a_failing_endpoint_is_retried_until_the_deadline_and_no_longer() -> None:
    grader = {**OWN, "deadline_s": 1.0}
    started = time.monotonic()
    (score,), requests = run(grader, lambda _request: Reply("down", status=503))
    assert isinstance(score, GraderFailure)
    assert "HTTP 503: down" in score.detail
    assert 2 <= len(requests) <= 4
    assert 0.9 < time.monotonic() - started < 3


def test_a_slow_endpoint_ends_at_the_timeout_of_a_try() -> None:
    def answer(_request: Request) -> Reply:
        time.sleep(1.5)
        return Reply({"scores": [1]})

    started = time.monotonic()
    (score,), _ = run({**OWN, "timeout_s": 0.3, "deadline_s": 0.5}, answer)
    # The stub itself ends only when its answers were given.
    assert isinstance(score, GraderFailure)
    assert "timed out" in score.detail
    assert time.monotonic() - started < 4


def test_the_deadline_of_the_caller_ends_the_tries() -> None:
    limits = GradingLimits(expires_at=time.monotonic() + 0.5)
    started = time.monotonic()
    (score,), _ = run(OWN, lambda _request: Reply("down", status=503), limits=limits)
    assert isinstance(score, GraderFailure)
    assert time.monotonic() - started < 2


def test_a_cancelled_batch_makes_no_further_request() -> None:
    cancellation = Cancellation()
    threading.Timer(0.3, cancellation.cancel).start()
    started = time.monotonic()
    (score,), _ = run(
        {**OWN, "deadline_s": 60},
        lambda _request: Reply("down", status=503),
        limits=GradingLimits(cancellation=cancellation),
    )
    assert score == GraderFailure("cancelled")
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("status", [400, 401, 404, 301])
def test_an_answer_that_would_stay_the_same_is_not_asked_for_again(status: int) -> None:
    reply = Reply("no", status=status, headers={"location": "http://127.0.0.1:9/"})
    (score,), requests = run(OWN, lambda _request: reply)
    assert isinstance(score, GraderFailure)
    assert (score.reason, len(requests)) == ("endpoint_refused", 1)
    assert f"HTTP {status}" in score.detail


def test_a_reply_without_an_end_is_cut() -> None:
    (score,), _ = run({**OWN, "deadline_s": 60}, lambda _request: Reply("x" * (17 << 20)))
    assert isinstance(score, GraderFailure)
    assert "longer than" in score.detail


def test_an_endpoint_that_the_operator_did_not_name_is_refused() -> None:
    with pytest.raises(PlatformError, match="has no endpoint 'own'; it has: none") as caught:
        make_graders([json.dumps(OWN)])
    assert caught.value.code == "invalid_request"
