"""The entry point `vllm.endpoint_plugins`: what is said over HTTP of personalities; `VLLM_PLUGINS` has to name it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dpg_fast.serving.admission import HEADER, applied, header_text
from dpg_fast.vllm.names import APPLIED

__all__ = ["PersonalityEndpoint"]


class PersonalityEndpoint:
    """The header of responses, and ``GET /v1/personalities``; see vLLM's `EndpointPlugin`."""

    name = "dpg_fast"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add the route and what writes the header."""
        app.add_middleware(AppliedHeader)

        @app.get("/v1/personalities")
        async def personalities(request: Request) -> dict[str, Any]:
            admission = request.app.state.dpg_fast
            named = {} if admission is None else admission.abilities.named()
            return {"object": "list", "data": [{"name": n, "personality": t, "saved": False} for n, t in named.items()]}

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Keep what the front end knows of the adapter; None in an engine without the plugin's loader."""
        state.dpg_fast = getattr(getattr(engine_client, "input_processor", None), "dpg_fast", None)


class AppliedHeader:
    """ASGI middleware: responses of routes that take a personality say which was applied."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        rows: list[Any] = []

        async def noted(message: Message) -> None:
            if rows and message["type"] == "http.response.start" and message["status"] < 400:
                MutableHeaders(scope=message)[HEADER] = header_text(applied(rows[-1]))
            await send(message)

        token = APPLIED.set(rows)
        try:
            await self._app(scope, receive, noted)
        finally:
            APPLIED.reset(token)
