"""The one client for every call to a language model behind an API.

It speaks to any OpenAI-compatible server through the ``openai`` package (``pip install 'dpg-fast[llm]'``), which is
imported when the first call is made. Every reply is stored before it is looked at, so a killed run continues where it was.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel

from dpg_fast.llm.cache import Reply, ReplyCache, content_key
from dpg_fast.llm.calls import (
    Call,
    Failure,
    Request,
    Result,
    call_key,
    estimate_tokens,
    first_request,
    prompt_estimate,
    settle,
    usage_of,
    with_instruction,
)
from dpg_fast.llm.prices import PriceTable, Usage
from dpg_fast.llm.results import Plan, Run
from dpg_fast.llm.settings import LLMError, LLMSettings
from dpg_fast.llm.structured import MODES, Mode, response_format

T = TypeVar("T", bound=BaseModel)
EMBEDDING_BATCH = 128
GIVE_UP_AFTER = 20  # calls in a row without an answer, each after all its retries
_FATAL = (401, 403, 404)  # every further call would end the same way
_FORMAT_WORDS = ("response_format", "json_schema", "json_object", "schema", "structured", "guided", "grammar")


class LLMClient:
    """Sends calls, stores replies, counts tokens.

    Args:
        settings: the model and how to reach it.
        cache: where replies are kept: a path or an open cache.
        prices: by model; without one costs are unknown (None), not zero.
        count_tokens: for estimates; default: a quarter of the UTF-8 bytes.
        retry_failed: ask again where a stored reply was refused, cut or unreadable (it is paid for again).
    """

    def __init__(
        self,
        settings: LLMSettings,
        cache: ReplyCache | Path | str,
        *,
        prices: PriceTable | None = None,
        count_tokens: Callable[[str], int] = estimate_tokens,
        retry_failed: bool = False,
    ) -> None:
        self.settings = settings
        self.cache = cache if isinstance(cache, ReplyCache) else ReplyCache(cache)
        self.prices = prices or PriceTable()
        self._count = count_tokens
        self._retry_failed = retry_failed
        self._mode: Mode = MODES[0] if settings.structured == "auto" else settings.structured  # type: ignore[assignment]

    @property
    def mode(self) -> Mode:
        """How structure is asked for now; "auto" settings step down when a server refuses."""
        return self._mode

    # --- without calls ---

    def plan(self, calls: Iterable[Call[Any]], *, completion_tokens: int | None = None) -> Plan:
        """What `run` would send and what that would cost.

        Args:
            calls: as for `run`.
            completion_tokens: expected tokens of a reply; default: the calls' own limit (so the price is an upper
                bound, up to repairs and the estimate of the prompt).
        """
        total = cached = to_pay = prompt = completion = 0
        known = True
        seen: set[str] = set()
        for call in calls:
            total += 1
            key = call_key(call, self.settings.model, self.settings.parameters)
            outcome, _ = self._from_cache(call, key)
            if not isinstance(outcome, Request) and not (self._retry_failed and isinstance(outcome, Failure)):
                cached += 1
                continue
            if key in seen:  # the same call twice is sent once
                cached += 1
                continue
            seen.add(key)
            request = outcome if isinstance(outcome, Request) else first_request(call, key)
            to_pay += 1
            prompt += prompt_estimate(call, request, self._count)
            each = completion_tokens if completion_tokens is not None else self._limit(call)
            known = known and each is not None
            completion += each or 0
        expected = completion if known else None
        usage = Usage(calls=to_pay, prompt_tokens=prompt, completion_tokens=completion)
        price = self.prices.cost(self.settings.model, usage) if known else None
        return Plan(total, cached, to_pay, prompt, expected, price, self.prices.currency)

    def _limit(self, call: Call[Any]) -> int | None:
        merged = {**self.settings.parameters, **call.parameters}
        limit = merged.get("max_completion_tokens", merged.get("max_tokens"))
        return limit if isinstance(limit, int) else None

    def _from_cache(self, call: Call[T], key: str) -> tuple[T | Failure | Request, list[Reply]]:
        """How far stored replies take a call: its answer, its failure or the next request, and the replies used."""
        outcome: T | Failure | Request = first_request(call, key)
        used: list[Reply] = []
        while isinstance(outcome, Request):
            reply = self.cache.get(outcome.key)
            if reply is None:
                break
            used.append(reply)
            outcome = settle(call, outcome, reply)
        return outcome, used

    # --- with calls ---

    def run(self, calls: Sequence[Call[Any]], *, progress: Callable[[Result[Any]], None] | None = None) -> Run:
        """Answer the calls. One `Result` for each, in order; ``progress`` sees them as they come.

        Raises:
            LLMError: the server cannot be used (401, 403 or 404, or 20 calls in a row without an answer); replies that
                came are stored, and the same run can be started again.
            ImportError: the ``openai`` package is missing.
            ValueError: no API key, or parameters that the SDK or JSON do not know.
            RuntimeError: called inside a running event loop; use `run_async` there.
        """
        return _in_new_loop(lambda: self.run_async(calls, progress=progress), "run_async")

    async def run_async(
        self, calls: Sequence[Call[Any]], *, progress: Callable[[Result[Any]], None] | None = None
    ) -> Run:
        """`run` for use inside an event loop."""
        keys = [call_key(call, self.settings.model, self.settings.parameters) for call in calls]
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        results: dict[int, Result[Any]] = {}

        def done(index: int, result: Result[Any]) -> None:
            results[index] = result
            if progress is not None:
                progress(result)

        waiting: list[int] = []
        for i, (call, key) in enumerate(zip(calls, keys, strict=True)):
            if first[key] != i:
                continue
            outcome, used = self._from_cache(call, key)
            if isinstance(outcome, Request) or (self._retry_failed and isinstance(outcome, Failure)):
                waiting.append(i)
            else:
                done(i, self._result(call, outcome, used, []))
        if waiting:
            queue = iter(waiting)
            async with self._open() as sdk:
                unreachable = 0

                async def work() -> None:
                    nonlocal unreachable
                    for i in queue:
                        result = await self._answer(sdk, calls[i], keys[i])
                        done(i, result)
                        failure = result.failure
                        unreachable = unreachable + 1 if failure and failure.kind == "unreachable" else 0
                        if failure and unreachable >= GIVE_UP_AFTER:
                            raise LLMError(f"{unreachable} calls in a row got no answer; the last: {failure.detail}")

                await _all_or_first_error([work() for _ in range(min(self.settings.concurrency, len(waiting)))])
        for i, key in enumerate(keys):
            if first[key] != i:  # a repeated call shares the reply and costs nothing more
                again = results[first[key]]
                done(i, Result(calls[i].item, again.value, again.failure, Usage(), Usage(), again.served_by))
        return Run([results[i] for i in range(len(calls))], self.settings.model, self.prices)

    def embed(self, texts: Sequence[str], model: str) -> np.ndarray:
        """Embeddings of ``texts`` by the server's ``model``: float32 [N, D], rows of length 1. Stored like replies.

        Raises:
            LLMError: the server has no such model or refuses.
            ValueError: a text is empty, or an embedding is zero, not finite or of another length than the others.
        """
        return _in_new_loop(lambda: self.embed_async(texts, model), "embed_async")

    async def embed_async(self, texts: Sequence[str], model: str) -> np.ndarray:
        """`embed` for use inside an event loop."""
        if not all(text.strip() for text in texts):
            raise ValueError("an empty text has no embedding")
        keys = [content_key(["embedding", model, text]) for text in texts]
        found = self.cache.vectors(set(keys))
        missing = list({key: text for key, text in zip(keys, texts, strict=True) if key not in found}.items())
        batches = iter([missing[i : i + EMBEDDING_BATCH] for i in range(0, len(missing), EMBEDDING_BATCH)])
        if missing:
            async with self._open() as sdk:

                async def work() -> None:
                    for batch in batches:
                        vectors = await self._embed_batch(sdk, model, [text for _, text in batch])
                        new = {key: row.tobytes() for (key, _), row in zip(batch, vectors, strict=True)}
                        await asyncio.shield(asyncio.to_thread(self.cache.put_vectors, model, new))
                        found.update(new)

                await _all_or_first_error([work() for _ in range(self.settings.concurrency)])
        rows = [np.frombuffer(found[key], dtype="<f4") for key in keys]
        if len({len(row) for row in rows}) > 1:
            raise ValueError(f"{model} gave embeddings of different lengths")
        matrix = np.stack(rows) if rows else np.zeros((0, 0), dtype=np.float32)
        norms = np.linalg.norm(matrix, axis=1, keepdims=True)
        if not np.isfinite(norms).all() or (norms == 0).any():
            raise ValueError(f"{model} gave an embedding that is zero or not finite")
        return (matrix / norms).astype(np.float32)

    async def _embed_batch(self, sdk: Any, model: str, texts: list[str]) -> list[np.ndarray]:
        import openai

        try:
            reply = await sdk.embeddings.create(model=model, input=texts, encoding_format="float")
            rows = sorted(reply.data, key=lambda row: row.index)
            vectors = [np.asarray(row.embedding, dtype="<f4") for row in rows]
        except openai.OpenAIError as error:
            raise LLMError(f"no embeddings from {model}: {self._clean(error)}") from None
        except (AttributeError, TypeError, ValueError) as error:
            raise LLMError(f"no embeddings from {model}: the reply is not of the API's form ({error})") from error
        if len(vectors) != len(texts):
            raise LLMError(f"{model} gave {len(vectors)} embeddings for {len(texts)} texts")
        return vectors

    def _open(self) -> Any:
        try:
            from openai import AsyncOpenAI
        except ImportError as error:
            raise ImportError(
                "calls to a language model need the openai package: pip install 'dpg-fast[llm]'"
            ) from error
        settings = self.settings
        return AsyncOpenAI(
            api_key=settings.key(),
            base_url=settings.base_url,
            max_retries=settings.max_retries,
            timeout=settings.timeout,
        )

    async def _answer(self, sdk: Any, call: Call[Any], key: str) -> Result[Any]:
        outcome, used = self._from_cache(call, key)
        replace = self._retry_failed and isinstance(outcome, Failure)
        if replace:
            outcome, used = first_request(call, key), []
        paid: list[Reply] = []
        while isinstance(outcome, Request):
            stored = None if replace else self.cache.get(outcome.key)  # another process may have been faster
            if stored is None:
                sent = await self._send(sdk, call, outcome)
                if isinstance(sent, Failure):
                    outcome = sent
                    break
                paid.append(sent)
                stored = await asyncio.shield(asyncio.to_thread(self._store, call, outcome.key, sent, replace))
            used.append(stored)
            outcome = settle(call, outcome, stored)
        result = self._result(call, outcome, used, paid)
        self._note(key, call, result)
        return result

    def _store(self, call: Call[Any], key: str, reply: Reply, replace: bool) -> Reply:
        version = call.prompt_version
        return self.cache.put(key, reply, model=self.settings.model, prompt_version=version, replace=replace)

    def _note(self, key: str, call: Call[Any], result: Result[Any]) -> None:
        if result.failure is None:
            self.cache.clear_failure(key)
        else:
            self.cache.add_failure(
                key,
                item=call.item,
                prompt_version=call.prompt_version,
                kind=result.failure.kind,
                detail=result.failure.detail,
            )

    @staticmethod
    def _result(call: Call[Any], outcome: Any, used: list[Reply], paid: list[Reply]) -> Result[Any]:
        failed = isinstance(outcome, Failure)
        return Result(
            call.item,
            None if failed else outcome,
            outcome if failed else None,
            sum(map(usage_of, used), Usage()),
            sum(map(usage_of, paid), Usage()),
            used[-1].served_by if used else None,
        )

    async def _send(self, sdk: Any, call: Call[Any], request: Request) -> Reply | Failure:
        """One request through the SDK, stepping down to what the server understands."""
        import openai

        while True:
            mode = self._mode
            try:
                completion = await self._create(sdk, call, request, mode)
            except openai.APIStatusError as error:
                if error.status_code in _FATAL:
                    raise LLMError(f"{self.settings.model}: {self._clean(error)}") from None
                if error.status_code >= 500 or error.status_code in (408, 409, 429):
                    return Failure("unreachable", self._clean(error))
                if not self._step_down(mode, str(error)):
                    return Failure("rejected", self._clean(error))
            except (openai.OpenAIError, ValueError) as error:  # no connection, time-outs, a body that is not JSON
                return Failure("unreachable", self._clean(error))
            except TypeError as error:  # the SDK's own check of the parameters' names
                raise ValueError(f'{call.item}: {error}; what only one server knows goes into "extra_body"') from None
            else:
                try:
                    return _reply(completion, mode)
                except (AttributeError, TypeError, IndexError, ValueError) as error:
                    return Failure("unreachable", f"the reply is not of the API's form: {self._clean(error)}")

    def _step_down(self, tried: Mode, message: str) -> bool:
        """Whether to try again in a more lenient mode: "auto", and the refusal speaks of the format."""
        if self._mode != tried:  # another call has stepped down meanwhile
            return True
        position = MODES.index(tried) + 1
        about_format = any(word in message.lower() for word in _FORMAT_WORDS)
        if self.settings.structured != "auto" or position == len(MODES) or not about_format:
            return False
        self._mode = MODES[position]
        return True

    async def _create(self, sdk: Any, call: Call[Any], request: Request, mode: Mode) -> Any:
        parameters = {**self.settings.parameters, **call.parameters}
        wanted = response_format(call.answer, mode)
        if wanted is not None:
            parameters["response_format"] = wanted
        messages = with_instruction(request, call, mode)
        return await sdk.chat.completions.create(model=self.settings.model, messages=messages, **parameters)

    def _clean(self, error: Exception) -> str:
        """The error's text without the key: some servers repeat it."""
        text = f"{type(error).__name__}: {error}"
        cause = error.__cause__
        if cause is not None and str(cause):
            text += f" ({type(cause).__name__}: {cause})"
        key = self.settings.api_key or os.environ.get(self.settings.api_key_variable)
        return text.replace(key, "[key]")[:1000] if key else text[:1000]


def _reply(completion: Any, mode: Mode) -> Reply:
    choice = completion.choices[0]
    usage = getattr(completion, "usage", None)
    details = getattr(usage, "prompt_tokens_details", None)
    return Reply(
        content=choice.message.content,
        finish_reason=choice.finish_reason,
        refusal=getattr(choice.message, "refusal", None),
        prompt_tokens=getattr(usage, "prompt_tokens", None),
        cached_prompt_tokens=getattr(details, "cached_tokens", None),
        completion_tokens=getattr(usage, "completion_tokens", None),
        served_by=completion.model,
        mode=mode,
    )


async def _all_or_first_error(work: Sequence[Any]) -> None:
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _in_new_loop(start: Callable[[], Any], instead: str) -> Any:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(start())
    raise RuntimeError(f"an event loop is running here; await {instead}(...) instead")
