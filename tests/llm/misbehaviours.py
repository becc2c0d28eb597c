"""What servers do besides answering: one row for each behaviour, with what a run of twenty calls has to come to.

`ask` is what an obedient model answers; a behaviour gets the request, the number of the item, and how often it came before.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.llm.server import Answer

GOOD = {"reason": "fine", "rating": 4}
ANSWER = json.dumps(GOOD)
PROSE = "I would rate this four of five."
ITEMS = 20
Behaviour = Callable[[dict[str, Any], int, int], Answer]


@dataclass(frozen=True)
class Misbehaviour:
    """What a server does, and what is to come of it.

    Attributes:
        right: calls that end with the right answer; the others are failures of their own.
        calls: requests of the whole run, at most.
        ends: pattern of the error that ends the run; None: it does not.
        parameters: of the client.
        kinds: of the failures, if there are some.
    """

    behave: Behaviour
    right: int = ITEMS
    calls: int = ITEMS + 2
    ends: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    kinds: tuple[str, ...] = ()


def error(message: str, status: int = 400, **more: Any) -> Answer:
    return Answer(status=status, body={"error": {"message": message, **more}}, headers={"Retry-After": "0"})


def always(answer: Answer) -> Behaviour:
    return lambda body, item, before: answer


def once(answer: Answer, every: int = 1) -> Behaviour:
    """For each item (or each of so many), the first time."""
    return lambda body, item, before: answer if before == 0 and item % every == 0 else Answer(ANSWER)


def some(answer: Answer, every: int = 4) -> Behaviour:
    """Always for the items 1, 1 + every, ..."""
    return lambda body, item, before: answer if item % every == 1 else Answer(ANSWER)


def without(name: str, answer: Answer) -> Behaviour:
    """Refuses a parameter; without a response_format, only a prompt that says the form gets JSON."""

    def behave(body: dict[str, Any], item: int, before: int) -> Answer:
        if name in body:
            return answer
        if name == "response_format" and "JSON schema" not in str(body["messages"]):
            return Answer(PROSE)
        return Answer(ANSWER)

    return behave


def ignores_format(body: dict[str, Any], item: int, before: int) -> Answer:
    return Answer(ANSWER if "JSON schema" in str(body["messages"]) else PROSE)


def message(**content: Any) -> Answer:
    """A completion with a message of another form."""
    choice = {"index": 0, "message": {"role": "assistant", **content}, "finish_reason": "stop"}
    return Answer(body={"choices": [choice], "model": "m", "usage": {"prompt_tokens": 100, "completion_tokens": 10}})


def completion(content: str | None = ANSWER, finish: Any = "stop", **more: Any) -> Answer:
    """A completion with other fields."""
    body = {"choices": [{"message": {"content": content}, "finish_reason": finish}], "model": "m"}
    return Answer(body={**body, "usage": {"prompt_tokens": 100, "completion_tokens": 10}} | more)


def bodies(words: str) -> dict[str, Answer]:
    """One refusal in all forms."""
    return {
        "error string": Answer(status=400, body={"error": f"{words} is not supported"}),
        "detail string": Answer(status=400, body={"detail": f"{words} is not supported"}),
        "detail list": Answer(status=422, body={"detail": [{"loc": ["body", words], "type": "extra_forbidden"}]}),
        "errors list": Answer(status=400, body={"errors": [{"message": f"unsupported: {words}"}]}),
        "plain text": Answer(status=400, raw=f"{words} not supported"),
        "parameter alone": error("Not supported.", param=words, code="unsupported_parameter"),
    }  # fmt: skip


REFUSED = ("temperature", "max_completion_tokens", "response_format")
FAILED = Answer(body={"error": {"message": "Provider failed", "code": 502}})
SILENT = {"prompt_tokens": 9, "completion_tokens": 0}
DRAFT = f'{{"reason": "draft", "rating": 1}} no.</think>{ANSWER}'
LIMIT = {"max_completion_tokens": 300}
TABLE: dict[str, Misbehaviour] = {
    **{
        f"format refused, {form}": Misbehaviour(without("response_format", answer))
        for form, answer in bodies("response_format").items()
    },
    "format refused, 501": Misbehaviour(without("response_format", error("response_format is not implemented", 501))),
    "format refused, 500": Misbehaviour(without("response_format", error("json_schema is not implemented", 500))),
    "format ignored": Misbehaviour(ignores_format),
    "format missed now and then": Misbehaviour(
        once(error("Generated JSON does not match the expected schema.", code="json_validate_failed"), 5), calls=24
    ),
    **{
        f"limit refused, {form}": Misbehaviour(without("max_completion_tokens", answer), parameters=LIMIT)
        for form, answer in bodies("max_completion_tokens").items()
    },
    "other limit refused": Misbehaviour(
        without("max_tokens", error("Unsupported parameter: 'max_tokens' is not supported with this model.")),
        parameters={"max_tokens": 300},
    ),
    **{
        f"temperature refused, {form}": Misbehaviour(without("temperature", answer), parameters={"temperature": 0})
        for form, answer in bodies("temperature").items()
    },
    "all three refused": Misbehaviour(
        lambda body, item, before: next(
            (error(f"{name} is not supported", param=name) for name in REFUSED if name in body), Answer(ANSWER)
        ),
        parameters=LIMIT | {"temperature": 0},
        calls=ITEMS + 4,
    ),
    "limit too large": Misbehaviour(
        always(error("max_tokens: 1500 > 1024, which is the maximum allowed number of output tokens")), 0, 5, "--max-tokens"
    ),
    "limit too large, with context": Misbehaviour(
        always(error("max_completion_tokens is too large: 9000. The maximum context length is 4096")), 0, 5, "--max-tokens"
    ),
    "unknown parameter": Misbehaviour(always(error("Unknown parameter: 'top_k'.", param="top_k")), 0, 5, "--parameters"),
    "unknown refusal": Misbehaviour(always(error("computer says no")), 0, 5, "the first 5 calls were refused.*computer says no"),
    "key refused": Misbehaviour(always(error("Incorrect API key", 401)), 0, 1, "key right"),
    "no such model": Misbehaviour(always(error("The model `m` does not exist", 404)), 0, 1, "model's name"),
    "method not allowed": Misbehaviour(always(Answer(status=405, body={"detail": "Method Not Allowed"})), 0, 1, "/v1"),
    "no credit": Misbehaviour(always(error("Insufficient Balance", 402)), 0, 1, "credit"),
    "no quota": Misbehaviour(always(error("You exceeded your current quota", 429, code="insufficient_quota")), 0, 1, "credit"),
    "address without /v1": Misbehaviour(
        always(Answer(body={"error": "Unexpected endpoint or method. (POST /chat/completions)"})), 0, 1, "/v1"
    ),
    "web page": Misbehaviour(always(Answer(raw="<!doctype html><title>Welcome</title>")), 0, 5, "/v1"),
    "stream": Misbehaviour(always(Answer(raw='data: {"choices": []}\n\ndata: [DONE]\n')), 0, 5, "/v1"),
    "a number": Misbehaviour(always(Answer(body=5)), 0, 5, "/v1"),
    "down": Misbehaviour(always(error("upstream failed", 502)), 0, 20, "in a row.*upstream failed"),
    "error in the body": Misbehaviour(always(FAILED), 0, 20, "Provider failed"),
    "error in the choice": Misbehaviour(always(completion(None, "error")), 0, 20, "in a row"),
    "no choices": Misbehaviour(always(Answer(body={"choices": None})), 0, 20, "in a row"),
    "empty choices": Misbehaviour(always(Answer(body={"choices": []})), 0, 20, "in a row"),
    "empty replies": Misbehaviour(always(completion("", usage=SILENT)), 0, 20, "empty"),
    "ill once": Misbehaviour(once(error("overloaded", 503)), calls=2 * ITEMS),
    "error in the body once": Misbehaviour(once(FAILED), calls=2 * ITEMS),
    "aborted once": Misbehaviour(once(completion("", "abort")), calls=2 * ITEMS),
    "empty once": Misbehaviour(once(completion("", usage=None)), calls=2 * ITEMS),
    "filtered": Misbehaviour(some(error("content management policy", code="content_filter")), 15, ITEMS, kinds=("refused",)),
    "safety": Misbehaviour(some(completion(None, "SAFETY")), 15, ITEMS, kinds=("refused",)),
    "blocked by a proxy": Misbehaviour(some(Answer(status=403, raw="<h1>Blocked</h1>")), 15, ITEMS, kinds=("rejected",)),
    "one bad item": Misbehaviour(some(error("no"), ITEMS), ITEMS - 1, ITEMS, kinds=("rejected",)),
    "cut": Misbehaviour(always(completion('{"reason": "so', "MAX_TOKENS")), 0, ITEMS, kinds=("cut",)),
    "never of the form": Misbehaviour(always(Answer('{"rating": 9}')), 0, 2 * ITEMS, kinds=("unreadable",)),
    "content in parts": Misbehaviour(
        always(message(content=[{"type": "thinking", "thinking": "{}"}, {"type": "text", "text": ANSWER}])), calls=ITEMS
    ),
    "content as reasoning": Misbehaviour(always(message(content=None, reasoning_content=ANSWER)), calls=ITEMS),
    "content in a tool call": Misbehaviour(
        always(message(content=None, tool_calls=[{"function": {"name": "answer", "arguments": ANSWER}}])), calls=ITEMS
    ),
    "odd usage": Misbehaviour(
        always(completion(usage={"prompt_tokens": 99.5, "completion_tokens": "10", "prompt_tokens_details": 3})), calls=ITEMS
    ),
    "odd model": Misbehaviour(always(completion(model=7, usage=[1])), calls=ITEMS),
    "odd finish": Misbehaviour(always(completion(finish=0)), calls=ITEMS),
    "surrogates": Misbehaviour(always(completion('{"reason": "\ud83d", "rating": 4}')), calls=ITEMS),
    "thinking without a beginning": Misbehaviour(always(Answer(DRAFT)), calls=ITEMS),
}  # fmt: skip
