"""One open connection to a server: a call goes in, its result comes out, and every reply is stored before it is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pydantic import BaseModel

from dpg_fast.llm.cache import Reply
from dpg_fast.llm.calls import Call, Failure, Request, Result, first_request, request_body, result_of, settle
from dpg_fast.llm.settings import LLMError, LLMSettings
from dpg_fast.llm.structured import MODES, Mode
from dpg_fast.util.errors import DPGError

if TYPE_CHECKING:
    from dpg_fast.llm.client import LLMClient

T = TypeVar("T", bound=BaseModel)
GIVE_UP_AFTER = 20  # calls in a row without an answer, each after all its retries
_FATAL = (401, 403, 404)  # every further call would end the same way
_FORMAT_WORDS = ("response_format", "json_schema", "json_object", "schema", "structured", "guided", "grammar")


class Answers(Protocol):
    """Where calls are answered: a `Session`, or stored replies alone."""

    async def answer(self, call: Call[T]) -> Result[T]:
        """The call's result."""


class LLMSession:
    """Answers calls as they come, at most `LLMSettings.concurrency` at once. Get it from `LLMClient.session`."""

    def __init__(self, client: LLMClient) -> None:
        self._client = client
        self._settings = client.settings
        self._unreachable = 0
        self._slots = asyncio.Semaphore(client.settings.concurrency)
        self._under_way: dict[str, asyncio.Lock] = {}
        self._sdk: Any = None

    @property
    def sdk(self) -> Any:
        """The SDK's client, opened on first use: calls with stored replies need neither it nor a key."""
        if self._sdk is None:
            try:
                from openai import AsyncOpenAI
            except ImportError as error:
                raise ImportError(
                    "calls to a language model need the openai package: pip install 'dpg-fast[llm]'"
                ) from error
            self._sdk = AsyncOpenAI(
                api_key=self._settings.key(),
                base_url=self._settings.base_url,
                max_retries=self._settings.max_retries,
                timeout=self._settings.timeout,
            )
        return self._sdk

    async def __aenter__(self) -> LLMSession:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sdk is not None:
            await self._sdk.close()
            self._sdk = None

    async def answer(self, call: Call[T]) -> Result[T]:
        """The call's result; sent only if stored replies do not settle it. The same call twice is sent once.

        Raises:
            LLMError: the server cannot be used (401, 403, 404, or 20 calls in a row without an answer).
            ImportError, ValueError: as for `LLMClient.run`.
        """
        known = self._client.stored(call)
        if known is not None:
            return known
        key = self._client.key(call)
        lock = self._under_way.setdefault(key, asyncio.Lock())
        try:
            async with lock, self._slots:
                result = await self._ask(call, key)
        finally:
            if not lock.locked():
                self._under_way.pop(key, None)
        failure = result.failure
        self._unreachable = self._unreachable + 1 if failure and failure.kind == "unreachable" else 0
        if failure and self._unreachable >= GIVE_UP_AFTER:
            raise LLMError(f"{self._unreachable} calls in a row got no answer; the last: {failure.detail}")
        return result

    async def _ask(self, call: Call[T], key: str) -> Result[T]:
        # A call is one of: a Request (to send, or a repair to send after an unreadable reply), a value, or a Failure.
        # - A Request is sent, its reply stored, and settled into one of the three: at most one repair, so the loop ends.
        # - A Failure that was paid for (refused, cut, unreadable twice) is stored and final, until `retry_failed` asks afresh
        #   and replaces what is stored.
        # - A Failure of the connection or the server ("unreachable", "rejected") is not stored as a reply: the next run sends
        #   it again. The SDK has made its own retries by then.
        client = self._client
        outcome, used = client.from_cache(call, key)
        replace = client.retry_failed and isinstance(outcome, Failure)
        if replace:
            outcome, used = first_request(call, key), []
        paid: list[Reply] = []
        while isinstance(outcome, Request):
            stored = None if replace else client.cache.get(outcome.key)  # another process may have been faster
            if stored is None:
                sent = await self._send(call, outcome)
                if isinstance(sent, Failure):
                    outcome = sent
                    break
                paid.append(sent)
                stored = await asyncio.shield(asyncio.to_thread(self._store, call, outcome.key, sent, replace))
            used.append(stored)
            outcome = settle(call, outcome, stored)
        result = result_of(call, outcome, used, paid)
        self._note(key, call, result)
        return result

    def _store(self, call: Call[Any], key: str, reply: Reply, replace: bool) -> Reply:
        version = call.prompt_version
        return self._client.cache.put(key, reply, model=self._settings.model, prompt_version=version, replace=replace)

    def _note(self, key: str, call: Call[Any], result: Result[Any]) -> None:
        if result.failure is None:
            self._client.cache.clear_failure(key)
        else:
            self._client.cache.add_failure(
                key,
                item=call.item,
                prompt_version=call.prompt_version,
                kind=result.failure.kind,
                detail=result.failure.detail,
            )

    async def _send(self, call: Call[Any], request: Request) -> Reply | Failure:
        """One request through the SDK, stepping down to what the server understands."""
        sdk = self.sdk
        import openai

        while True:  # again only after a step down to a more lenient format
            mode = self._client.mode
            body = request_body(call, request, self._settings.model, self._settings.parameters, mode)
            try:
                completion = await sdk.chat.completions.create(**body)
            except openai.APIStatusError as error:
                if error.status_code in _FATAL:
                    raise LLMError(f"{self._settings.model}: {clean_error(error, self._settings)}") from None
                if error.status_code >= 500 or error.status_code in (408, 409, 429):
                    return Failure("unreachable", clean_error(error, self._settings))
                if not self._step_down(mode, str(error)):
                    return Failure("rejected", clean_error(error, self._settings))
            except (openai.OpenAIError, ValueError) as error:  # no connection, time-outs, a body that is not JSON
                return Failure("unreachable", clean_error(error, self._settings))
            except TypeError as error:  # the SDK's own check of the parameters' names
                raise DPGError(f'{call.item}: {error}; what only one server knows goes into "extra_body"') from None
            else:
                try:
                    reply = reply_of(completion.model_dump(warnings=False), mode)
                except (AttributeError, KeyError, TypeError, IndexError, ValueError) as error:
                    problem = clean_error(error, self._settings)
                    return Failure("unreachable", f"the reply is not of the API's form: {problem}")
                return without_key(reply, self._settings)

    def _step_down(self, tried: Mode, message: str) -> bool:
        """Whether to try again in a more lenient mode: "auto", and the refusal speaks of the format."""
        if self._client.mode != tried:  # another call has stepped down meanwhile
            return True
        position = MODES.index(tried) + 1
        about_format = any(word in message.lower() for word in _FORMAT_WORDS)
        if self._settings.structured != "auto" or position == len(MODES) or not about_format:
            return False
        self._client.mode = MODES[position]
        return True


class StoredReplies:
    """Answers calls from stored replies alone; what they do not settle is a failure of the kind "open".

    Args:
        client: whose cache it is.
        errors: key of a request -> why the server did not answer it; these are failures of the kind "rejected".
    """

    def __init__(self, client: LLMClient, errors: Mapping[str, str] | None = None) -> None:
        self._client = client
        self._errors = dict(errors or {})

    async def answer(self, call: Call[T]) -> Result[T]:
        """The call's result. Nothing is sent."""
        known = self._client.stored(call)
        if known is not None:
            return known
        request = self._client.pending(call)
        error = self._errors.get(request.key) if request is not None else None
        failure = Failure("open", "not asked yet") if error is None else Failure("rejected", error)
        return Result(call.item, None, failure)


def reply_of(completion: Mapping[str, Any], mode: Mode) -> Reply:
    """What is kept of a chat completion, given as its JSON.

    Raises:
        KeyError, TypeError, IndexError, ValueError: it is none.
    """
    choice = completion["choices"][0]
    usage = completion.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    return Reply(
        content=choice["message"].get("content"),
        finish_reason=choice.get("finish_reason"),
        refusal=choice["message"].get("refusal"),
        prompt_tokens=usage.get("prompt_tokens"),
        cached_prompt_tokens=details.get("cached_tokens"),
        completion_tokens=usage.get("completion_tokens"),
        served_by=completion.get("model"),
        mode=mode,
    )


def clean_error(error: Exception, settings: LLMSettings) -> str:
    """The error's text without the key: some servers repeat it."""
    text = f"{type(error).__name__}: {error}"
    cause = error.__cause__
    if cause is not None and str(cause):
        text += f" ({type(cause).__name__}: {cause})"
    return settings.redact(text)[:1000]


def without_key(reply: Reply, settings: LLMSettings) -> Reply:
    """The reply, should a server have put the key into it, without the key."""
    texts = {name: getattr(reply, name) for name in ("content", "refusal", "served_by", "finish_reason")}
    clean = {name: settings.redact(text) for name, text in texts.items() if text is not None}
    return reply if all(texts[name] == text for name, text in clean.items()) else reply.model_copy(update=clean)


async def all_or_first_error(work: Sequence[Any]) -> None:
    """Await all of the coroutines; the first error cancels the others and is raised."""
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
