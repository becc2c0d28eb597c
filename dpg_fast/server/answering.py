"""From a request to answers in OpenAI's shapes, whole or event by event."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from dpg_fast.compat.transformers_models import chat_template
from dpg_fast.server.grammar import Grammar, Grammars
from dpg_fast.server.metrics import Metrics
from dpg_fast.server.people import People
from dpg_fast.server.protocol import APIError, ChatRequest, CompletionRequest
from dpg_fast.server.sampling import Chosen, TokenSampling
from dpg_fast.server.streams import Piece, Streams, WantedAnswer
from dpg_fast.server.tools import ToolText, knows_tools
from dpg_fast.serving.admission import applied, split_name
from dpg_fast.text.prompting import chat_prompt
from dpg_fast.util.errors import DPGError

__all__ = ["AnswerPlan", "Answering"]


@dataclass(frozen=True)
class AnswerPlan:
    """A request that was understood.

    Attributes:
        asked: the request.
        wanted: what the engine is asked for.
        personality: canonical text of who speaks, "none" for the base model.
        id, created: of the answer.
    """

    asked: ChatRequest | CompletionRequest
    wanted: WantedAnswer
    personality: str
    id: str
    created: int

    @property
    def chat(self) -> bool:
        return isinstance(self.asked, ChatRequest)

    @property
    def told_tools(self) -> bool:
        return isinstance(self.asked, ChatRequest) and self.asked.told_tools is not None

    @property
    def answers(self) -> int:
        return len(self.wanted.prompts) * len(self.wanted.samplings)

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.wanted.prompts))


class Answering:
    """Answers of one model.

    Args:
        name: that it is served under.
        streams: of its engine.
        people: that may be asked for.
        metrics: of the server.
        limit: tokens of an answer where a request states none.
    """

    def __init__(self, name: str, streams: Streams, people: People, metrics: Metrics, limit: int) -> None:
        self.name, self.streams, self._people, self._metrics, self._limit = name, streams, people, metrics, limit
        self._characters = streams.engine.characters
        self._started = int(time.time())
        vocabulary = streams.vocabulary
        self._grammars = Grammars(vocabulary.tokenizer, vocabulary.size, vocabulary.eos)
        self._knows_tools = knows_tools(chat_template(vocabulary.tokenizer))

    def card(self) -> dict[str, Any]:
        """The model as /v1/models lists it."""
        context = self.streams.engine.context
        return {
            "id": self.name,
            "object": "model",
            "created": self._started,
            "owned_by": "dpg-fast",
            "max_model_len": context,
        }

    def named(self, model: str) -> str | None:
        """The personality in a model's name; None without one.

        Raises:
            APIError: another model. ValueError: a personality that cannot be had.
        """
        name, text = split_name(model, self._characters) or (model, None)
        if name != self.name:
            raise APIError(
                f"there is no model {name!r}; this server has {self.name!r}, or with a personality {self.name + '@E+4'!r}",
                404,
                param="model",
                code="model_not_found",
            )
        if text is not None:
            self._read(text, "model")
        return text

    def plan(self, asked: ChatRequest | CompletionRequest) -> AnswerPlan:
        """Everything that can be refused is refused here.

        Raises:
            APIError: with the field at fault.
        """
        if asked.stream_options is not None and not asked.stream:
            raise APIError("stream_options needs stream: true", param="stream_options")
        given = {
            "model": self.named(asked.model),
            "personality": asked.personality,
            "vllm_xargs": asked.vllm_xargs.personality if asked.vllm_xargs is not None else None,
        }
        said = {field: value for field, value in given.items() if value is not None}
        if len(said) > 1:
            raise APIError(
                f"a personality is given twice, in {' and '.join(said)}; leave one out", param=list(said)[-1]
            )
        field, value = next(iter(said.items()), ("personality", None))
        row = self._read(value, field)
        prompts = [self._ids(asked)] if isinstance(asked, ChatRequest) else self._prompts(asked)
        longest = max(map(len, prompts))
        room = self.streams.engine.context - longest
        limit = asked.limit if asked.limit is not None else min(self._limit, max(1, room))
        try:
            self.streams.engine.check(row, longest, limit)
        except DPGError as error:
            raise APIError(str(error), param="messages", code="context_length_exceeded") from None
        grammar = self._grammar(asked) if isinstance(asked, ChatRequest) and asked.formatted else None
        sampling = TokenSampling(asked.temperature, asked.top_p, asked.seed, asked.wanted_logprobs, grammar)
        first = asked.seed if asked.seed is not None else secrets.randbits(62)
        samplings = [replace(sampling, seed=(first + number) % (1 << 63)) for number in range(asked.n)]
        return AnswerPlan(
            asked,
            WantedAnswer(prompts, row, samplings, limit, asked.stops),
            applied(row),
            ("chatcmpl-" if isinstance(asked, ChatRequest) else "cmpl-") + uuid.uuid4().hex,
            int(time.time()),
        )

    def _read(self, value: Any, field: str) -> Any:
        try:
            return self._people.read(value)
        except DPGError as error:
            raise APIError(str(error), param=field, code="invalid_personality") from None

    def _grammar(self, asked: ChatRequest) -> Grammar:
        if asked.told_tools is not None:
            raise APIError("response_format and tools cannot be had together; leave one out", param="response_format")
        try:
            return self._grammars.json(asked.schema_of_answer)
        except DPGError as error:
            raise APIError(f"response_format: {error}", param="response_format") from None

    def _ids(self, asked: ChatRequest) -> list[int]:
        tokenizer, tools = self.streams.vocabulary.tokenizer, asked.told_tools
        uses = [
            name for name, used in (("tools", tools), ("messages", any(m.uses_tools for m in asked.messages))) if used
        ]
        if uses and not self._knows_tools:
            raise APIError(
                f"{uses[0]}: the chat template of {self.name} does not ask for calls of tools in a form known here",
                param=uses[0],
            )
        try:
            text = chat_prompt(tokenizer, [message.plain() for message in asked.messages], tools=tools)
        except DPGError:
            raise
        except Exception as error:  # templates raise jinja2's own errors, such as for roles that do not alternate
            raise APIError(f"the chat template refuses these messages: {error}", param="messages") from None
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _prompts(self, asked: CompletionRequest) -> list[list[int]]:
        vocabulary = self.streams.vocabulary
        found = []
        for prompt in asked.prompts:
            ids = vocabulary.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
            if not ids:
                raise APIError("the prompt is empty", param="prompt")
            if not all(0 <= token < vocabulary.size for token in ids):
                raise APIError(f"a token lies outside 0..{vocabulary.size - 1}", param="prompt")
            found.append(ids)
        return found

    async def whole(self, plan: AnswerPlan) -> dict[str, Any]:
        """The answer as one object."""
        count = plan.answers
        texts, finishes, tokens = [""] * count, [""] * count, 0
        details: list[list[tuple[Chosen, int]]] = [[] for _ in range(count)]
        async with aclosing(self._measured(plan)) as pieces:
            async for piece in pieces:
                details[piece.answer].append((piece.chosen, len(texts[piece.answer])))
                texts[piece.answer] += piece.text
                tokens += 1
                if piece.finish is not None:
                    finishes[piece.answer] = piece.finish
        choices = []
        for index in range(count):
            choice: dict[str, Any] = {"index": index, "finish_reason": finishes[index]}
            choice["logprobs"] = self._logprobs(plan, details[index])
            if plan.chat:
                message: dict[str, Any] = {"role": "assistant", "content": texts[index], "refusal": None}
                if plan.told_tools:
                    message["content"], calls = ToolText().add(texts[index], last=True)
                    if calls:
                        message |= {"content": message["content"] or None, "tool_calls": calls}
                        choice["finish_reason"] = "tool_calls"
                choice["message"] = message
            else:
                choice["text"] = texts[index]
            choices.append(choice)
        return self._object(plan, choices, stream=False) | {"usage": self._usage(plan, tokens)}

    async def events(self, plan: AnswerPlan) -> AsyncGenerator[dict[str, Any], None]:
        """The answer in pieces, as they come."""
        usage = plan.asked.stream_options is not None and plan.asked.stream_options.include_usage
        started: set[int] = set()
        given: dict[int, int] = {}
        called = [ToolText() for _ in range(plan.answers)] if plan.told_tools else None
        tokens = 0
        async with aclosing(self._measured(plan)) as pieces:
            async for piece in pieces:
                tokens += 1
                choice: dict[str, Any] = {"index": piece.answer, "finish_reason": piece.finish}
                choice["logprobs"] = self._logprobs(plan, [(piece.chosen, given.get(piece.answer, 0))])
                given[piece.answer] = given.get(piece.answer, 0) + len(piece.text)
                text = piece.text
                calls: list[dict[str, Any]] = []
                if called is not None:
                    text, calls = called[piece.answer].add(text, last=piece.finish is not None)
                if plan.chat:
                    role = {} if piece.answer in started else {"role": "assistant"}
                    choice["delta"] = {**role, "content": text}
                    if calls:
                        choice["delta"]["tool_calls"] = [{"index": n, **call} for n, call in enumerate(calls)]
                        choice["finish_reason"] = "tool_calls"
                else:
                    choice["text"] = text
                if not (text or piece.finish or choice["logprobs"]) and piece.answer in started:
                    continue
                started.add(piece.answer)
                yield self._object(plan, [choice], stream=True) | ({"usage": None} if usage else {})
        if usage:
            yield self._object(plan, [], stream=True) | {"usage": self._usage(plan, tokens)}

    async def _measured(self, plan: AnswerPlan) -> AsyncGenerator[Piece, None]:
        begin, first = time.monotonic(), True
        self._metrics.prompt_tokens.inc(plan.prompt_tokens)
        open_answers = plan.answers
        try:
            async with aclosing(self.streams.run(plan.wanted)) as pieces:
                async for piece in pieces:
                    if first:
                        self._metrics.first.observe(time.monotonic() - begin)
                        first = False
                    self._metrics.tokens.inc()
                    if piece.finish is not None:
                        open_answers -= 1
                        self._metrics.answers.labels(piece.finish).inc()
                    yield piece
        finally:
            if open_answers:
                self._metrics.answers.labels("unfinished").inc(open_answers)
            self._metrics.whole.observe(time.monotonic() - begin)

    def _object(self, plan: AnswerPlan, choices: list[dict[str, Any]], *, stream: bool) -> dict[str, Any]:
        kind = "text_completion" if not plan.chat else "chat.completion.chunk" if stream else "chat.completion"
        return {"id": plan.id, "object": kind, "created": plan.created, "model": plan.asked.model, "choices": choices}

    def _usage(self, plan: AnswerPlan, tokens: int) -> dict[str, int]:
        prompt = plan.prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}

    def _logprobs(self, plan: AnswerPlan, found: list[tuple[Chosen, int]]) -> dict[str, Any] | None:
        if plan.asked.wanted_logprobs is None:
            return None
        vocabulary = self.streams.vocabulary
        kept = [(chosen, offset) for chosen, offset in found if chosen.token not in vocabulary.eos]

        def told(token: int, logprob: float | None) -> dict[str, Any]:
            text = vocabulary.shown(token)
            return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

        if plan.chat:
            return {
                "content": [
                    told(chosen.token, chosen.logprob) | {"top_logprobs": [told(*pair) for pair in chosen.likeliest]}
                    for chosen, _ in kept
                ],
                "refusal": None,
            }
        return {
            "tokens": [vocabulary.shown(chosen.token) for chosen, _ in kept],
            "token_logprobs": [chosen.logprob for chosen, _ in kept],
            "top_logprobs": [{vocabulary.shown(t): value for t, value in chosen.likeliest} for chosen, _ in kept],
            "text_offset": [offset for _, offset in kept],
        }
