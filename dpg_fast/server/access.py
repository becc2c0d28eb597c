"""Who may send requests: API keys from the environment or a file, compared in constant time."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from pathlib import Path

from dpg_fast.server.protocol import APIError
from dpg_fast.util.errors import DPGError
from dpg_fast.util.reading import read_text

__all__ = ["KEYS_VARIABLE", "Access", "read_keys"]

KEYS_VARIABLE = "DPG_FAST_API_KEYS"
SHORTEST = 16


def read_keys(environment: str | None, file: Path | None) -> list[str]:
    """Keys of an environment variable (with commas between them) and of a file (one in each line; # begins a remark).

    Raises:
        ValueError: a file without a key, or a key that is too short or holds more than printable ASCII.
        OSError: the file cannot be read.
    """
    found = [part.strip() for part in (environment or "").split(",") if part.strip()]
    if file is not None:
        lines = [line.strip() for line in read_text(file, 1 << 20).splitlines()]
        held = [line for line in lines if line and not line.startswith("#")]
        if not held:
            raise DPGError(f"{file} holds no key")
        found += held
    for number, key in enumerate(found, 1):
        if len(key) < SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
            raise DPGError(f"API key {number} is not {SHORTEST} or more printable ASCII characters without a space")
    return found


class Access:
    """Checks the Authorization header. Without keys everybody may send requests."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def require(self, header: str | None) -> None:
        """Raises APIError for another key than one of ours."""
        if not self._keys:
            return
        kind, _, given = (header or "").partition(" ")
        sent = given.strip().encode("utf-8", "replace") if kind.lower() == "bearer" else b""
        # every key is compared, so that the time says nothing about which one was nearly right
        if not any([hmac.compare_digest(sent, key) for key in self._keys]):
            raise APIError(
                "no valid API key in the header Authorization: Bearer KEY",
                401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
