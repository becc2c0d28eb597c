"""The one client for every call to a language model behind an API.

It speaks to any OpenAI-compatible server through the ``openai`` package (``pip install 'dpg-fast[llm]'``), which is
imported when the first call is made. Every reply is stored before it is looked at, so a killed run continues where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from pydantic import BaseModel

from dpg_fast.llm.adaptation import Adaptation
from dpg_fast.llm.cache import Reply, ReplyCache
from dpg_fast.llm.calls import (
    Call,
    Failure,
    Request,
    Result,
    call_key,
    estimate_tokens,
    first_request,
    prompt_estimate,
    result_of,
    settle,
)
from dpg_fast.llm.prices import PriceTable, Usage
from dpg_fast.llm.results import Plan, Run
from dpg_fast.llm.session import LLMSession, all_or_first_error, clean_error
from dpg_fast.llm.settings import LLMError, LLMSettings
from dpg_fast.llm.structured import MODES, Mode
from dpg_fast.util.errors import DPGError
from dpg_fast.util.identity import digest

T = TypeVar("T", bound=BaseModel)
EMBEDDING_BATCH = 128


class LLMClient:
    """Sends calls, stores replies, counts tokens.

    Args:
        settings: the model and how to reach it.
        cache: where replies are kept: a path or an open cache.
        prices: by model; without one costs are unknown (None), not zero.
        count_tokens: for estimates; default: a quarter of the UTF-8 bytes.
        retry_failed: ask again where a stored reply was refused, cut or unreadable (it is paid for again).

    Attributes:
        learnt: what has been found out about the server, such as that it refuses a format or a temperature.
        paid: tokens of all replies that this client caused, those behind failures included.
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
        self.count_tokens = count_tokens
        self.retry_failed = retry_failed
        fixed = settings.structured != "auto"
        self.learnt = Adaptation(cast(Mode, settings.structured) if fixed else MODES[0], fixed)
        self.paid = Usage()

    def close(self) -> None:
        """Close the file of replies; the client cannot be used afterwards."""
        self.cache.close()

    def __enter__(self) -> LLMClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
            request = self.pending(call)
            if request is None or request.key in seen:  # the same call twice is sent once
                cached += 1
                continue
            seen.add(request.key)
            to_pay += 1
            prompt += prompt_estimate(call, request, self.count_tokens)
            each = completion_tokens if completion_tokens is not None else self._limit(call)
            known = known and each is not None
            completion += each or 0
        expected = completion if known else None
        usage = Usage(calls=to_pay, prompt_tokens=prompt, completion_tokens=completion)
        price = self.prices.cost(self.settings.model, usage) if known else None
        return Plan(total, cached, to_pay, prompt, expected, price, self.prices.currency)

    def key(self, call: Call[Any]) -> str:
        """The content address of a call."""
        return call_key(call, self.settings.model, self.settings.parameters)

    def parameters(self, call: Call[Any]) -> dict[str, Any]:
        """What is sent with a call now: its own parameters over the client's, as far as the server takes them."""
        return self.learnt.parameters({**self.settings.parameters, **call.parameters})

    def pending(self, call: Call[Any]) -> Request | None:
        """What `run` would send for a call now; None if stored replies settle it."""
        key = self.key(call)
        outcome, _ = self.from_cache(call, key)
        if self.retry_failed and isinstance(outcome, Failure):
            return first_request(call, key)
        return outcome if isinstance(outcome, Request) else None

    def stored(self, call: Call[T]) -> Result[T] | None:
        """The result that stored replies give; None if `run` would send something."""
        outcome, used = self.from_cache(call, self.key(call))
        if isinstance(outcome, Request) or (self.retry_failed and isinstance(outcome, Failure)):
            return None
        return result_of(call, outcome, used, [])

    def _limit(self, call: Call[Any]) -> int | None:
        merged = {**self.settings.parameters, **call.parameters}
        limit = merged.get("max_completion_tokens", merged.get("max_tokens"))
        return limit if isinstance(limit, int) else None

    def from_cache(self, call: Call[T], key: str) -> tuple[T | Failure | Request, list[Reply]]:
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
        return in_new_loop(lambda: self.run_async(calls, progress=progress), "run_async")

    async def run_async(
        self, calls: Sequence[Call[Any]], *, progress: Callable[[Result[Any]], None] | None = None
    ) -> Run:
        """`run` for use inside an event loop."""
        keys = [self.key(call) for call in calls]
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        results: dict[int, Result[Any]] = {}

        def done(index: int, result: Result[Any]) -> None:
            results[index] = result
            if progress is not None:
                progress(result)

        waiting: list[int] = []
        for i, call in enumerate(calls):
            if first[keys[i]] != i:
                continue
            known = self.stored(call)
            if known is None:
                waiting.append(i)
            else:
                done(i, known)
        if waiting:
            queue = iter(waiting)
            async with self.session() as session:

                async def work() -> None:
                    for i in queue:
                        done(i, await session.answer(calls[i]))

                await all_or_first_error([work() for _ in range(min(self.settings.concurrency, len(waiting)))])
        for i, key in enumerate(keys):
            if first[key] != i:  # a repeated call shares the reply and costs nothing more
                again = results[first[key]]
                done(i, Result(calls[i].item, again.value, again.failure, Usage(), Usage(), again.served_by))
        return Run([results[i] for i in range(len(calls))], self.settings.model, self.prices)

    def session(self) -> LLMSession:
        """An open connection for calls that come one by one: ``async with client.session() as session``."""
        return LLMSession(self)

    def embed(self, texts: Sequence[str], model: str) -> np.ndarray:
        """Embeddings of ``texts`` by the server's ``model``: float32 [N, D], rows of length 1. Stored like replies.

        Raises:
            LLMError: the server has no such model or refuses.
            ValueError: a text is empty, or an embedding is zero, not finite or of another length than the others.
        """
        return in_new_loop(lambda: self.embed_async(texts, model), "embed_async")

    async def embed_async(self, texts: Sequence[str], model: str) -> np.ndarray:
        """`embed` for use inside an event loop."""
        if not all(text.strip() for text in texts):
            raise DPGError("an empty text has no embedding")
        keys = [digest(["embedding", model, text]) for text in texts]
        found = self.cache.vectors(set(keys))
        missing = list({key: text for key, text in zip(keys, texts, strict=True) if key not in found}.items())
        batches = iter([missing[i : i + EMBEDDING_BATCH] for i in range(0, len(missing), EMBEDDING_BATCH)])
        if missing:
            async with self.session() as session:

                async def work() -> None:
                    for batch in batches:
                        vectors = await self._embed_batch(session.sdk, model, [text for _, text in batch])
                        new = {key: row.tobytes() for (key, _), row in zip(batch, vectors, strict=True)}
                        await asyncio.shield(asyncio.to_thread(self.cache.put_vectors, model, new))
                        found.update(new)

                await all_or_first_error([work() for _ in range(self.settings.concurrency)])
        rows = [np.frombuffer(found[key], dtype="<f4") for key in keys]
        if len({len(row) for row in rows}) > 1:
            raise DPGError(f"{model} gave embeddings of different lengths")
        matrix = np.stack(rows) if rows else np.zeros((0, 0), dtype=np.float32)
        norms = np.linalg.norm(matrix, axis=1, keepdims=True)
        if not np.isfinite(norms).all() or (norms == 0).any():
            raise DPGError(f"{model} gave an embedding that is zero or not finite")
        return (matrix / norms).astype(np.float32)

    async def _embed_batch(self, sdk: Any, model: str, texts: list[str]) -> list[np.ndarray]:
        import openai

        try:
            reply = await sdk.embeddings.create(model=model, input=texts, encoding_format="float")
            rows = sorted(reply.data, key=lambda row: row.index)
            vectors = [np.asarray(row.embedding, dtype="<f4") for row in rows]
        except openai.OpenAIError as error:
            raise LLMError(f"no embeddings from {model}: {clean_error(error, self.settings)}") from None
        except (AttributeError, TypeError, ValueError) as error:
            raise LLMError(f"no embeddings from {model}: the reply is not of the API's form ({error})") from error
        if len(vectors) != len(texts):
            raise LLMError(f"{model} gave {len(vectors)} embeddings for {len(texts)} texts")
        return vectors


def in_new_loop(start: Callable[[], Any], instead: str) -> Any:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(start())
    raise RuntimeError(f"an event loop is running here; await {instead}(...) instead")
