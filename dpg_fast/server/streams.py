"""One request's answers, from the engine's thread to the event loop: in order, in time, and given up with the client."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dpg_fast.personality.row import Row
from dpg_fast.server.engine import BatchEngine, BatchJob, Busy
from dpg_fast.server.protocol import APIError
from dpg_fast.server.sampling import Chosen, TokenSampling
from dpg_fast.server.text import AnswerText, Vocabulary

__all__ = ["Piece", "Streams", "WantedAnswer"]


@dataclass(frozen=True)
class WantedAnswer:
    """Answers that belong to one request: one for each of its prompts, n times over.

    Attributes:
        prompts: ids; the answers to the first come first.
        row: what all of them ask to be.
        samplings: of each of the n answers to a prompt.
        limit: most tokens of each.
        stops: see `AnswerText`.
    """

    prompts: Sequence[Sequence[int]]
    row: Row | None
    samplings: Sequence[TokenSampling]
    limit: int
    stops: Sequence[str] = ()


class Piece(NamedTuple):
    """A token of an answer.

    Attributes:
        answer: its number.
        text: that the token made certain; may be empty.
        chosen: the token.
        finish: how the answer ended with it, or None.
    """

    answer: int
    text: str
    chosen: Chosen
    finish: str | None


@dataclass
class Streams:
    """All requests of one server.

    Attributes:
        engine, vocabulary: of the model.
        seconds: that one request may take.
        closing: when all answers end, in `time.monotonic`; None while the server goes on.
    """

    engine: BatchEngine
    vocabulary: Vocabulary
    seconds: float
    closing: float | None = None
    _changed: set[asyncio.Event] = field(default_factory=set)

    def close(self, seconds: float) -> None:
        """End all answers that take longer than ``seconds`` from now; in the event loop."""
        self.closing = time.monotonic() + seconds
        for event in self._changed:
            event.set()

    async def run(self, wanted: WantedAnswer) -> AsyncGenerator[Piece, None]:
        """The pieces of all answers, as they come; what runs is cancelled when this is closed.

        Raises:
            ValueError: see `BatchEngine.check`.
            APIError: too many requests, no engine, no time left.
        """
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Chosen | str | None]]()
        deadline = time.monotonic() + self.seconds
        answers: list[AnswerText] = []
        ids: list[str] = []
        closing = asyncio.Event()

        def posts(index: int) -> Callable[[Chosen | str | None], None]:
            def post(item: Chosen | str | None) -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(queue.put_nowait, (index, item))

            return post

        jobs: list[BatchJob] = []
        for prompt in wanted.prompts:
            for sampling in wanted.samplings:
                post = posts(len(jobs))
                jobs.append(
                    BatchJob(
                        uuid.uuid4().hex,
                        prompt,
                        wanted.row,
                        wanted.limit,
                        self.vocabulary.eos,
                        post,
                        post,
                        sampling,
                    )
                )
                answers.append(AnswerText(self.vocabulary, wanted.stops, wanted.limit))
        self._changed.add(closing)
        stop = asyncio.ensure_future(closing.wait())
        try:
            try:
                ids += self.engine.submit_all(jobs)
            except Busy as busy:
                raise APIError(
                    str(busy), 429, kind="rate_limit_error", code="server_busy", headers={"Retry-After": "1"}
                ) from None
            except RuntimeError as error:
                raise APIError(str(error), 503, kind="server_error", code="unavailable") from None
            while any(answer.finish is None for answer in answers):
                index, item = await self._next(queue, stop, deadline)
                answer = answers[index]
                if answer.finish is not None:
                    continue
                if not isinstance(item, Chosen):
                    raise APIError(
                        "the model could not finish this answer", 500, kind="server_error", code="engine_error"
                    )
                text = answer.add(item)
                if answer.finish is not None:
                    self.engine.cancel(ids[index])
                yield Piece(index, text, item, answer.finish)
        finally:
            stop.cancel()
            self._changed.discard(closing)
            for request in ids:
                self.engine.cancel(request)

    async def _next(
        self, queue: asyncio.Queue[tuple[int, Chosen | str | None]], stop: asyncio.Future[Any], deadline: float
    ) -> tuple[int, Chosen | str | None]:
        coming = asyncio.ensure_future(queue.get())
        try:
            while True:
                end = deadline if self.closing is None else min(deadline, self.closing)
                others: set[asyncio.Future[Any]] = {coming} if stop.done() else {coming, stop}
                await asyncio.wait(
                    others, timeout=max(0.0, end - time.monotonic()), return_when=asyncio.FIRST_COMPLETED
                )
                if self.closing is not None and time.monotonic() >= self.closing:
                    raise APIError("the server is shutting down", 503, kind="server_error", code="shutting_down")
                if time.monotonic() >= deadline:
                    raise APIError(
                        f"the answer took longer than {self.seconds:g} s", 504, kind="server_error", code="timeout"
                    )
                if coming.done():
                    return coming.result()
        finally:
            coming.cancel()
