"""Which model to call, where it is, and how to call it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from dpg_fast.llm.structured import MODES
from dpg_fast.util.errors import DPGError

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"
_SHORTEST_SECRET = 8
_RESERVED = {"model", "messages", "response_format", "stream", "n", "api_key", "extra_headers", "extra_query"}
_INSTEAD = "; headers and query have settings of their own, --header and --query"
_SECRET_NAME = re.compile(r"key|token|secret|sig|pass|auth|credential", re.IGNORECASE)
_NO_KEY = "no-key"  # local servers want none, the SDK wants something


class LLMError(RuntimeError):
    """The server cannot be used at all: wrong key, unknown model, no such address."""


@dataclass(frozen=True)
class LLMSettings:
    """Which model, where, and how.

    Attributes:
        model: name as the server knows it.
        base_url: of an OpenAI-compatible API ("http://localhost:8000/v1"); None: the SDK's default.
        api_key: read from the environment variable `api_key_variable` if None. Neither printed nor stored.
        api_key_variable: be careful to name another one than OpenAI's for somebody else's server.
        parameters: sent with every call, part of the cache key (temperature, max_completion_tokens, seed, ...; what only
            one server knows goes into "extra_body").
        headers: name of a header to send with every call -> environment variable that holds its value, which is as secret as the
            key. Azure takes its key as "api-key".
        query: parameters of the address, such as Azure's "api-version"; stored nowhere, but not for secrets.
        structured: how to ask for the schema: "json_schema", "json_object", "text", or "auto", which starts with the
            first and steps down when the server refuses it.
        concurrency: calls under way at once.
        max_retries: of the SDK, for 408, 409, 429, 5xx and broken connections, with its own backoff.
        timeout: seconds for one try.
    """

    model: str
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    api_key_variable: str = DEFAULT_KEY_VARIABLE
    parameters: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    structured: str = "auto"
    concurrency: int = 8
    max_retries: int = 6
    timeout: float = 120.0

    def __post_init__(self) -> None:
        if not self.model:
            raise DPGError("name a model")
        if self.structured not in ("auto", *MODES):
            raise DPGError(f"structured is one of auto, {', '.join(MODES)}, not {self.structured!r}")
        if self.concurrency < 1 or self.max_retries < 0 or not self.timeout > 0:
            raise DPGError("concurrency must be at least 1, max_retries at least 0, timeout above 0")
        if self.base_url is not None:
            parts = urlsplit(self.base_url)
            if parts.scheme not in ("http", "https") or not parts.netloc:
                raise DPGError(f"base_url must begin with http:// or https:// and a host, not {self.base_url!r}")
            if parts.username or parts.password or parts.query:
                raise DPGError("base_url must not hold a user, password or query; give the key in the environment")
        reserved = _RESERVED & set(self.parameters)
        if reserved:
            raise DPGError(f"not parameters to set here: {', '.join(sorted(reserved))}{_INSTEAD}")
        if secret := [name for name in self.query if _SECRET_NAME.search(name)]:
            raise DPGError(
                f"{secret[0]} seems to be a secret, which does not belong into an address; send it as a header"
            )
        if self.redact(told := json.dumps([dict(self.parameters), dict(self.query)], default=str)) != told:
            raise DPGError(
                "parameters and query must not hold the API key or a header's value; both come from the environment"
            )

    def key(self) -> str:
        """The API key to send.

        Raises:
            ValueError: none is given and the default server would need one.
        """
        found = self._given()
        if not found and self.base_url is None and "OPENAI_BASE_URL" not in os.environ:
            raise DPGError(f"no API key: set {self.api_key_variable}, or give base_url for a server without one")
        return found or _NO_KEY

    def sent_headers(self) -> dict[str, str]:
        """The headers to send, with their values.

        Raises:
            ValueError: a variable is not set.
        """
        found = {name: os.environ.get(variable, "").strip() for name, variable in self.headers.items()}
        if missing := [f"{name} from {self.headers[name]}" for name, value in found.items() if not value]:
            raise DPGError(f"header {missing[0]}: this environment variable is not set")
        return found

    def redact(self, text: str) -> str:
        """``text`` without the key and headers' values. "EMPTY", "test" and the like are not secrets, but may be words of it."""
        for secret in (self._given(), *(os.environ.get(variable, "").strip() for variable in self.headers.values())):
            if secret and len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, "[key]")
        return text

    def _given(self) -> str | None:
        found = self.api_key or os.environ.get(self.api_key_variable)
        return found.strip() if found else None  # a line end from a file would break the header, and show in the error
