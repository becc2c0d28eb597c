"""The HTTP side: routes, limits, errors in OpenAI's shape. No answer and no log line holds a trace or what anybody wrote."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dpg_fast.server.access import Access
from dpg_fast.server.answering import Answering
from dpg_fast.server.metrics import Metrics
from dpg_fast.server.people import People
from dpg_fast.server.protocol import APIError, AssessRequest, ChatRequest, CompletionRequest, SaveRequest, read_body
from dpg_fast.serving.admission import HEADER, header_text
from dpg_fast.util.errors import DPGError
from dpg_fast.util.reading import parse_json

__all__ = ["HTTPSettings", "make_app"]

LOG = logging.getLogger("dpg_fast.server")
KEPT = ("/v1/", "/metrics")  # what a key is needed for


@dataclass(frozen=True)
class HTTPSettings:
    """Settings of the HTTP side.

    Attributes:
        keys: API keys; without any, everybody may send requests.
        body: most bytes of a request.
    """

    keys: tuple[str, ...] = ()
    body: int = 1 << 20


class RequestGuard:
    """Around all routes: keys, the size of bodies, one line in the log, and faults that tell nothing.

    Args:
        app: with the routes.
        settings, metrics: of the server.
    """

    def __init__(self, app: ASGIApp, settings: HTTPSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._access = Access(settings.keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.monotonic(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if scope["path"].startswith(KEPT):
                headers = dict(scope["headers"])
                self._access.require(headers.get(b"authorization", b"").decode("latin-1"))
            await self._app(scope, receive, noted)
        except APIError as error:
            await failed(error)(scope, receive, noted)
        except Exception as error:
            LOG.error("%s %s failed: %s", scope["method"], scope["path"], type(error).__name__, exc_info=error)
            if status == 0:
                fault = APIError("the server failed to answer this request", 500, kind="server_error")
                await failed(fault)(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status or 499)).inc()
            LOG.info("%s %s %s %.0f ms", scope["method"], route, status or 499, 1e3 * (time.monotonic() - begin))


def failed(error: APIError) -> JSONResponse:
    """An error in OpenAI's shape."""
    return JSONResponse(error.body, error.status, headers=error.headers)


async def body_of(request: Request, limit: int) -> Any:
    """The JSON value that was sent.

    Raises:
        APIError: it is too large, or no JSON.
    """
    held = bytearray()
    async for chunk in request.stream():
        held += chunk
        if len(held) > limit:
            raise APIError(f"the body is longer than {limit} bytes", 413, code="body_too_large")
    try:
        return parse_json(bytes(held), "the body")
    except DPGError as error:
        raise APIError(str(error)) from None


def make_app(
    answering: Answering,
    people: People,
    settings: HTTPSettings,
    metrics: Metrics,
    assess: Callable[[str, str], Awaitable[dict[str, Any]]],
    static: Path,
) -> FastAPI:
    """The application.

    Args:
        answering: of chats and completions.
        people: that are saved.
        settings, metrics: of the server.
        assess: question, text -> what the judge found.
        static: folder with the page.
    """
    app = FastAPI(title="dpg-fast", docs_url=None, redoc_url=None, openapi_url=None)
    streams = answering.streams

    @app.exception_handler(DPGError)
    async def refused(request: Request, error: DPGError) -> Response:
        return failed(error if isinstance(error, APIError) else APIError(str(error)))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        return failed(APIError(f"{request.method} {request.url.path}: {error.detail}", error.status_code))

    async def answered(kind: type[Any], request: Request) -> Response:
        asked = read_body(kind, await body_of(request, settings.body))
        # a grammar may take a second to make, in which others go on
        plan = await asyncio.to_thread(answering.plan, asked) if asked.formatted else answering.plan(asked)
        headers = {HEADER: header_text(plan.personality)}
        if not asked.stream:
            return JSONResponse(await while_connected(request, answering.whole(plan)), headers=headers)
        events = answering.events(plan)
        first = await while_connected(request, anext(events))  # so that refusals have their own status
        return EventStream(first, events, headers)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await answered(ChatRequest, request)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await answered(CompletionRequest, request)

    @app.get("/v1/models")
    async def models() -> Any:
        return {"object": "list", "data": [answering.card()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Any:
        answering.named(name)
        return answering.card() | {"id": name}

    @app.get("/v1/personalities")
    async def listed() -> Any:
        return {"object": "list", "data": people.list()}

    @app.post("/v1/personalities")
    async def save(request: Request) -> Any:
        asked = read_body(SaveRequest, await body_of(request, settings.body))
        text = await asyncio.to_thread(people.save, asked.name, asked.personality)
        return {"name": asked.name, "personality": text, "saved": True}

    @app.delete("/v1/personalities/{name}")
    async def delete(name: str) -> Any:
        try:
            await asyncio.to_thread(people.delete, name)
        except KeyError:
            raise APIError(f"no personality is saved as {name!r}", 404, param="name") from None
        return {"name": name, "deleted": True}

    @app.post("/v1/assess")
    async def assessed(request: Request) -> Any:
        asked = read_body(AssessRequest, await body_of(request, settings.body))
        return await assess(asked.question, asked.text)

    @app.get("/health")
    async def health() -> Response:
        failure = streams.engine.failure
        return JSONResponse(
            {"status": "ok" if failure is None else "the engine has stopped"}, 200 if not failure else 503
        )

    @app.get("/ready")
    async def ready() -> Response:
        good = streams.engine.failure is None and streams.closing is None
        return JSONResponse({"status": "ready" if good else "not ready"}, 200 if good else 503)

    @app.get("/metrics")
    async def measured() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/")
    async def page() -> Response:
        return FileResponse(
            static / "index.html", headers={"Content-Security-Policy": "default-src 'self'; img-src data:"}
        )

    app.mount("/static", StaticFiles(directory=static))
    app.add_middleware(RequestGuard, settings=settings, metrics=metrics)
    return app


async def while_connected(request: Request, work: Awaitable[Any]) -> Any:
    """What ``work`` gives; it is cancelled when the client goes away before."""
    working = asyncio.ensure_future(work)

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    leaving = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise APIError("the client went away", 499)
        return working.result()
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working


class EventStream(Response):
    """Server-sent events; an error after the first becomes an event of its own.

    Args:
        first: event.
        events: the others; closed when the client goes away.
        headers: of the answer.
    """

    media_type = "text/event-stream"

    def __init__(
        self, first: dict[str, Any], events: AsyncGenerator[dict[str, Any], None], headers: dict[str, str]
    ) -> None:
        super().__init__(None, headers={**headers, "Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._first, self._events = first, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        headers = [(key, value) for key, value in self.raw_headers if key != b"content-length"]

        async def write() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await event(send, self._first)
            try:
                async for found in self._events:
                    await event(send, found)
            except APIError as error:
                await event(send, error.body)
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        writing, leaving = asyncio.ensure_future(write()), asyncio.ensure_future(gone())
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
        finally:
            leaving.cancel()
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await writing
            await self._events.aclose()


async def event(send: Send, value: dict[str, Any]) -> None:
    """One event."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})
