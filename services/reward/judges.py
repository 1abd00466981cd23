"""Graders that ask a model (`score_model`, `label_model`) or a service of the user's (`endpoint`)."""

import json
import math
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from services.common.grader_spec import EndpointGrader, LabelModelGrader, ScoreModelGrader
from services.common.linear_patterns import LinearPattern
from services.common.templates import MissingFieldError, fill_in
from services.reward.endpoints import EndpointClient, ReplyError
from services.reward.scores import GradedResponse, GraderFailure, GradingLimits, Score, Scorer

_FENCE: Final = LinearPattern(r"^```(?:json)?\s*|\s*```$")
_END_OF_THOUGHT: Final = "</think>"
_MAX_SHOWN: Final = 200


def make_judge_scorer(spec: ScoreModelGrader | LabelModelGrader, client: EndpointClient) -> Scorer:
    """Return a scorer that asks the model once for each response."""

    def score(batch: Sequence[GradedResponse], limits: GradingLimits) -> list[Score]:
        deadline = time.monotonic() + spec.deadline_s
        ask = partial(_ask_judge, spec, client, limits=limits, deadline=deadline)
        return client.map(ask, batch)

    return score


def make_endpoint_scorer(spec: EndpointGrader, client: EndpointClient) -> Scorer:
    """Return a scorer that sends a batch as one request and gets a score for each response."""

    def score(batch: Sequence[GradedResponse], limits: GradingLimits) -> list[Score]:
        responses = [{"sample": one.to_sample(), "item": one.to_item()} for one in batch]
        scores = client.post(
            "",
            {"grader": spec.name, "responses": responses},
            partial(_parse_scores, len(batch)),
            timeout_s=spec.timeout_s,
            deadline=time.monotonic() + spec.deadline_s,
            limits=limits,
        )
        return [scores] * len(batch) if isinstance(scores, GraderFailure) else scores

    return score


def _ask_judge(
    spec: ScoreModelGrader | LabelModelGrader,
    client: EndpointClient,
    graded: GradedResponse,
    *,
    limits: GradingLimits,
    deadline: float,
) -> Score:
    values = {"sample": graded.to_sample(), "item": graded.to_item()}
    try:
        turns = [(turn.role, fill_in(turn.content, values)) for turn in spec.input]
    except MissingFieldError as error:
        return GraderFailure("missing_field", f"the row has no {error}")
    messages = [{"role": role, "content": content} for role, content in turns]
    messages[-1]["content"] += f"\n\n{_describe_reply(spec)}"
    body = {
        "model": spec.model,
        "messages": messages,
        **spec.sampling_params.model_dump(exclude_none=True),
    }

    def parse(reply: Any) -> Score:
        limits.meter.add_tokens(_read_tokens(reply))
        result = _read_result(_read_text(reply))
        return _to_score(spec, result)

    return client.post(
        "/chat/completions",
        body,
        parse,
        timeout_s=spec.timeout_s,
        deadline=deadline,
        limits=limits,
    )


def _describe_reply(spec: ScoreModelGrader | LabelModelGrader) -> str:
    """Say which reply can be read: not every server can constrain a model to a schema."""
    if isinstance(spec, LabelModelGrader):
        return f'Reply with JSON only: {{"result": one of {json.dumps(spec.labels)}}}.'
    low, high = spec.range
    return f'Reply with JSON only: {{"result": a number from {low:g} to {high:g}}}.'


def _read_text(reply: Any) -> str:
    try:
        text = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        text = None
    if not isinstance(text, str):
        raise ReplyError("the reply is not a chat completion with a text")
    return text


def _read_tokens(reply: Any) -> int:
    usage = reply.get("usage") if isinstance(reply, dict) else None
    tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else 0


def _read_result(text: str) -> Any:
    """Read the result of a judge: `{"result": …}`, or the bare value.

    Nothing is searched for in prose: the last number of "7 out of 10" is not the score.
    """
    said = _FENCE.sub("", text.rpartition(_END_OF_THOUGHT)[2].strip())
    try:
        value = json.loads(said)
    except (ValueError, RecursionError):
        return said.strip("\"'. ")
    return value.get("result", value.get("score")) if isinstance(value, dict) else value


def _to_score(spec: ScoreModelGrader | LabelModelGrader, result: Any) -> Score:
    """Score of a judge's result; raises ReplyError for one that is none, so that it is asked again."""
    shown = repr(result)[:_MAX_SHOWN]
    if isinstance(spec, LabelModelGrader):
        if result not in spec.labels:
            raise ReplyError(f"the judge said {shown}; the labels are {list(spec.labels)}")
        return float(result in spec.passing_labels)
    low, high = spec.range
    is_number = isinstance(result, int | float) and not isinstance(result, bool)
    if not is_number or not low <= result <= high:
        raise ReplyError(f"the judge said {shown}; a number from {low:g} to {high:g} is needed")
    return float(result)


def _parse_scores(count: int, reply: Any) -> list[Score]:
    """Read the reply of an endpoint; raises ReplyError unless it has `count` scores."""
    scores = reply.get("scores") if isinstance(reply, dict) else None
    if not isinstance(scores, list):
        raise ReplyError('the reply must be {"scores": [...]}, with one score for each response')
    if len(scores) != count:
        raise ReplyError(f"{len(scores)} scores came for {count} responses")
    return [_parse_score(score) for score in scores]


def _parse_score(score: Any) -> Score:
    """Read a number, or `{"score": number}`; anything else concerns this response alone."""
    value = score.get("score") if isinstance(score, dict) else score
    if isinstance(value, int | float) and not isinstance(value, bool):
        # An integer beyond the range of floats is as little a score as infinity.
        return float(value) if abs(value) <= sys.float_info.max else math.inf
    reason = score.get("reason") if isinstance(score, dict) else None
    said = reason if isinstance(reason, str) else f"{json.dumps(score)[:_MAX_SHOWN]} is not a score"
    return GraderFailure("endpoint_no_score", said[:_MAX_SHOWN])
