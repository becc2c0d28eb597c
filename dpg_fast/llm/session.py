"""One open connection to a server: a call goes in, its result comes out, and every reply is stored before it is looked at."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from pydantic import BaseModel

from dpg_fast.llm.cache import Reply
from dpg_fast.llm.calls import (
    Call,
    Failure,
    Request,
    Result,
    first_request,
    prompt_estimate,
    request_body,
    result_of,
    settle,
    usage_of,
)
from dpg_fast.llm.completion import read_body
from dpg_fast.llm.refusals import FATAL, Kind, Refusal, read_refusal
from dpg_fast.llm.settings import LLMError, LLMSettings
from dpg_fast.llm.structured import MODES, Mode
from dpg_fast.util.errors import DPGError

if TYPE_CHECKING:
    from dpg_fast.llm.client import LLMClient

T = TypeVar("T", bound=BaseModel)
GIVE_UP_AFTER = 20  # calls in a row without an answer; before the first reply, attempts
FIRST_CALLS = 5  # with the same refusal of a setting, and none with a reply
_LONGEST_PAUSE = 60.0
LAST_REPLIES = 15.0  # seconds that a run which is stopped waits for the replies under way: they are paid for
_LOOK_AGAIN = 0.2  # seconds between two looks for a reply that another process has asked for


class Answers(Protocol):
    """Where calls are answered: a `Session`, or stored replies alone."""

    async def answer(self, call: Call[T]) -> Result[T]:
        """The call's result."""


class LLMSession:
    """Answers calls as they come, at most `LLMSettings.concurrency` at once. Get it from `LLMClient.session`."""

    def __init__(self, client: LLMClient) -> None:
        self._client = client
        self._settings = client.settings
        self._unreachable = self._attempts = 0
        self._refused: Counter[tuple[Any, ...]] = Counter()
        self._first = asyncio.Lock()
        self._over: LLMError | None = None
        self._slots = asyncio.Semaphore(client.settings.concurrency)
        self._under_way: dict[str, asyncio.Lock] = {}
        self._sending: set[asyncio.Task[Any]] = set()
        self._closing = False
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
                default_headers=self._settings.sent_headers() or None,
                default_query=dict(self._settings.query) or None,
                max_retries=0,  # `_send` retries, for it knows what may pass
                timeout=self._settings.timeout,
            )
        return self._sdk

    async def __aenter__(self) -> LLMSession:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        if under_way := set(self._sending):  # after Ctrl-C, or an error that ends the run
            await asyncio.wait(under_way, timeout=LAST_REPLIES)
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
        if self._sdk is not None:
            await self._sdk.close()
            self._sdk = None

    async def answer(self, call: Call[T]) -> Result[T]:
        """The call's result; sent only if stored replies do not settle it. The same call twice is sent once.

        Until a first reply has come, calls go one at a time: what the server does not take is found out once.

        Raises:
            LLMError: the server cannot be used: it refuses key, model or address, or the first calls without any reply, or 20
                calls in a row got no answer.
            ImportError, ValueError: as for `LLMClient.run`.
        """
        known = self._client.stored(call)
        if known is not None:
            return known
        key = self._client.key(call)
        lock = self._under_way.setdefault(key, asyncio.Lock())
        try:
            async with lock, self._slots, contextlib.AsyncExitStack() as alone:
                if not self._client.learnt.replied:
                    await alone.enter_async_context(self._first)
                    if self._client.learnt.replied:
                        await alone.aclose()
                if self._over is not None:  # another call has ended the run while this one waited
                    raise self._over
                result = await self._ask(call, key)
        except LLMError as error:
            self._over = error
            raise
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
        # - A final Failure with a reply (refused, cut, unreadable twice) is stored, until `retry_failed` asks afresh and
        #   replaces what is stored.
        # - A Failure without one ("unreachable", "rejected", refused with an error) is not: the next run sends it again.
        client = self._client
        outcome, used = client.from_cache(call, key)
        replace = client.retry_failed and isinstance(outcome, Failure)
        if replace:
            outcome, used = first_request(call, key), []
        paid: list[Reply] = []
        while isinstance(outcome, Request):
            stored = None if replace else await self._awaited(outcome.key)
            if stored is None:
                sending = asyncio.ensure_future(self._send_and_store(call, outcome, replace))
                self._sending.add(sending)
                sending.add_done_callback(self._sending.discard)
                sent = await asyncio.shield(sending)
                if isinstance(sent, Failure):
                    outcome = sent
                    break
                reply, stored = sent
                paid.append(reply)
            used.append(stored)
            outcome = settle(call, outcome, stored)
            if paid and isinstance(outcome, Request) and outcome.formless:
                client.learnt.formless(cast(Mode, stored.mode))
            elif paid and not isinstance(outcome, (Request, Failure)):
                client.learnt.formed(cast(Mode, stored.mode))
        result = result_of(call, outcome, used, paid)
        self._note(key, call, result)
        return result

    async def _send_and_store(self, call: Call[Any], request: Request, replace: bool) -> tuple[Reply, Reply] | Failure:
        """The reply that came, and the one that is stored, maybe another process's. It goes on when its call is cancelled."""
        try:
            sent = await self._send(call, request)
            if isinstance(sent, Failure):
                return sent
            self._client.paid = self._client.paid + usage_of(sent)
            return sent, await asyncio.to_thread(self._store, call, request.key, sent, replace)
        finally:
            self._client.cache.release(request.key)

    async def _awaited(self, key: str) -> Reply | None:
        """The reply to a request that another process is waiting for; None where it is this one's turn to ask."""
        cache, patience = self._client.cache, self._settings.timeout + _LONGEST_PAUSE
        while not await asyncio.to_thread(cache.claim, key, patience):
            await asyncio.sleep(_LOOK_AGAIN)
            if (found := cache.get(key)) is not None:
                return found
        found = cache.get(key)  # another process may have been faster
        if found is not None:
            cache.release(key)
        return found

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
        """One request: again where it may pass, and in another way where the server asks for one."""
        learnt = self._client.learnt
        retries, once = 0, 0
        while True:
            mode = MODES[min(MODES.index(learnt.mode) + once, len(MODES) - 1)]
            parameters = self._client.parameters(call)
            if not learnt.replied:
                self._attempts += 1
            found = await self._post(call, request_body(call, request, self._settings.model, parameters, mode), mode)
            if isinstance(found, Reply):
                learnt.replied = True
                learnt.counted(
                    found.prompt_tokens, prompt_estimate(call, request, self._client.count_tokens), call.item
                )
                return without_key(found, self._settings)
            if found.kind in FATAL and not (found.status == 403 and learnt.replied):
                raise LLMError(self._clean(f"{self._settings.model}: {found}{found.advice()}"))
            if learnt.learn(found, mode, parameters):
                continue
            if found.kind is Kind.FORMAT_ONCE and not once:
                once = 1
                continue
            self._refuse_all(found)
            if found.kind is Kind.FILTER:
                return Failure("refused", self._clean(str(found)))
            if found.kind is Kind.NO_ANSWER:
                return Failure("unreachable", self._clean(f"{found}{found.advice()}"))
            if found.kind is not Kind.BUSY:
                return Failure("rejected", self._clean(f"{found}{found.advice()}"), found.kind is Kind.TOO_LONG)
            # an empty reply may have been paid for, so it is asked for once more only
            most = min(self._settings.max_retries, 1 if found.status == 200 else self._settings.max_retries)
            if self._closing or retries == most:
                return Failure("unreachable", self._clean(str(found)))
            await asyncio.sleep(_pause(found, retries))
            retries += 1

    async def _post(self, call: Call[Any], body: dict[str, Any], mode: Mode) -> Reply | Refusal:
        sdk = self.sdk
        import openai

        try:
            response = await sdk.chat.completions.with_raw_response.create(**body)
        except openai.APIStatusError as error:
            return read_refusal(error.status_code, error.response.text, _asked_pause(error.response.headers))
        except (openai.OpenAIError, ValueError) as error:  # no connection, or none in time
            cause = error.__cause__
            reason = f" ({type(cause).__name__}: {cause})" if cause is not None and str(cause) else ""
            return Refusal(Kind.BUSY, f"{type(error).__name__}: {error}{reason}")
        except TypeError as error:  # the SDK's own check of the parameters' names
            raise DPGError(f'{call.item}: {error}; what only one server knows goes into "extra_body"') from None
        return read_body(response.text, mode)

    def _refuse_all(self, refusal: Refusal) -> None:
        """End a run that has had no reply, when a setting is refused again and again, or anything for too many calls.

        Raises:
            LLMError: so it is.
        """
        if self._client.learnt.replied or refusal.kind is Kind.FILTER:
            return
        self._refused[refusal.same] += 1
        number = self._refused[refusal.same]
        repeated = number >= FIRST_CALLS and refusal.kind not in (
            Kind.BUSY,
            Kind.TOO_LONG,
            Kind.OTHER,
        )  # an item's, maybe
        if repeated or self._attempts >= GIVE_UP_AFTER:
            what = (
                f"the first {number} calls were refused"
                if repeated
                else f"{self._attempts} calls in a row got no answer"
            )
            raise LLMError(self._clean(f"{self._settings.model}: {what}; the last: {refusal}{refusal.advice()}"))

    def _clean(self, text: str) -> str:
        return self._settings.redact(text)[:1000]


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


def clean_error(error: Exception, settings: LLMSettings) -> str:
    """The error's text without the key: some servers repeat it."""
    return settings.redact(f"{type(error).__name__}: {error}")[:1000]


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


def _pause(refusal: Refusal, retries: int) -> float:
    """Seconds before the next attempt: as the server asks, else doubled each time, with chance."""
    if refusal.wait is not None and 0 <= refusal.wait <= _LONGEST_PAUSE:
        return refusal.wait
    return min(0.5 * 2.0**retries, 8.0) * random.uniform(0.75, 1.0)


def _asked_pause(headers: Mapping[str, str]) -> float | None:
    try:
        return float(headers["retry-after-ms"]) / 1000 if "retry-after-ms" in headers else float(headers["retry-after"])
    except (KeyError, ValueError):
        return None
