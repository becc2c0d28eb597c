"""The running server: its parts put together, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from dpg_fast.judges.likelihood import LikelihoodJudge
from dpg_fast.model import PersonalityModel
from dpg_fast.server.answering import Answering
from dpg_fast.server.app import HTTPSettings, make_app
from dpg_fast.server.engine import BatchEngine, EngineLimits
from dpg_fast.server.metrics import Metrics
from dpg_fast.server.people import People
from dpg_fast.server.protocol import APIError
from dpg_fast.server.streams import Streams
from dpg_fast.server.text import Vocabulary

__all__ = ["RunningServer", "ServeOptions", "serve"]

STATIC = Path(__file__).with_name("static")


@dataclass(frozen=True)
class ServeOptions:
    """How a model is served.

    Attributes:
        name: of the model.
        limits: of the engine.
        settings: of the HTTP side.
        answer_tokens: of an answer where a request states none.
        seconds: that one request may take.
        grace: seconds that answers get to finish when the server is told to end.
        saved: file of saved personalities; None keeps them until the end.
    """

    name: str
    limits: EngineLimits = field(default_factory=EngineLimits)
    settings: HTTPSettings = field(default_factory=HTTPSettings)
    answer_tokens: int = 256
    seconds: float = 600.0
    grace: float = 20.0
    saved: Path | None = None


class RunningServer:
    """A model with its application. The engine runs from here until :meth:`stop`.

    Args:
        model, tokenizer: what is served.
        options: how.
        judge: makes the judge of /v1/assess, when it is first asked.

    Raises:
        ValueError: a model that cannot be served, or unreadable saved personalities.
    """

    def __init__(
        self, model: PersonalityModel, tokenizer: Any, options: ServeOptions, judge: Callable[[], LikelihoodJudge]
    ) -> None:
        self.options = options
        base: Any = model.base
        eos = base.generation_config.eos_token_id
        if eos is None:
            eos = tokenizer.eos_token_id
        ids = [] if eos is None else list(eos) if isinstance(eos, (list, tuple)) else [eos]
        size = base.get_input_embeddings().num_embeddings
        self.engine = BatchEngine(model, options.limits)
        try:
            people = People(options.saved, self.engine.check)
            self.streams = Streams(self.engine, Vocabulary(tokenizer, size, ids), options.seconds)
            metrics = Metrics(lambda: len(self.engine))
            answering = Answering(options.name, self.streams, people, metrics, options.answer_tokens)
            self.app: FastAPI = make_app(answering, people, options.settings, metrics, Assess(judge), STATIC)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the engine; answers that run end with an error."""
        self.engine.stop(finish=False, timeout=30)


class Assess:
    """One text after the other, in a thread of its own, by a judge that is made when the first is asked for.

    Args:
        make: the judge.
    """

    def __init__(self, make: Callable[[], LikelihoodJudge]) -> None:
        self._make = make
        self._judge: LikelihoodJudge | None = None
        self._lock = threading.Lock()
        self._waiting = 0

    async def __call__(self, question: str, text: str) -> dict[str, Any]:
        """What the judge found in an answer to a question, which may be empty.

        Raises:
            APIError: too many texts are waiting, or nothing can be said of this one.
        """
        if self._waiting >= 8:
            raise APIError(
                "8 texts are waiting to be judged",
                429,
                kind="rate_limit_error",
                code="server_busy",
                headers={"Retry-After": "5"},
            )
        self._waiting += 1
        try:
            return await asyncio.to_thread(self._assess, question, text)
        finally:
            self._waiting -= 1

    def _assess(self, question: str, text: str) -> dict[str, Any]:
        with self._lock:
            judge = self._judge = self._judge or self._make()
            (found,) = judge.judge(question, [text])
        if found.reason is not None:
            raise APIError(found.reason, param="text")
        traits = [
            {
                "trait": trait.value,
                "score": round(score, 3),
                **dict(zip(("low", "high"), (round(end, 3) for end in judge.interval(found, trait)), strict=True)),
                "spread": round(found.spread[trait], 4),
                "llr": found.llr[trait],
            }
            for trait, score in found.scores.items()
        ]
        return {"object": "assessment", "tokens": found.tokens, "traits": traits, "judge": judge.describe()}


class ServeProcess(uvicorn.Server):
    """Tells the answers when it is told to end.

    Args:
        config: of uvicorn.
        served: the model.
    """

    def __init__(self, config: uvicorn.Config, served: RunningServer) -> None:
        super().__init__(config)
        self._served = served
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: Any = None) -> None:
        """Listen."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come."""
        if self._loop is not None and not self.should_exit:
            self._loop.call_soon_threadsafe(self._served.streams.close, self._served.options.grace)
        super().handle_exit(sig, frame)


def serve(served: RunningServer, host: str, port: int) -> None:
    """Listen until SIGTERM or Ctrl-C; then answers get ``grace`` seconds to finish, and the engine ends.

    Raises:
        OSError: the address cannot be had.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    config = uvicorn.Config(
        served.app,
        host,
        port,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=int(served.options.grace) + 5,
        server_header=False,
        h11_max_incomplete_event_size=64 << 10,
        lifespan="off",
    )
    try:
        ServeProcess(config, served).run()
    finally:
        served.stop()
