"""Hooks of pytest: a test during which a library logs that something is deprecated fails.

transformers, PEFT, TRL and accelerate announce much of what goes away in their log alone, as transformers 5.24 does of
``past_key_values``, so warnings filters do not see it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator

import pytest

LIBRARIES = ("transformers", "peft", "trl", "accelerate")
ANNOUNCED = re.compile(r"deprecat|(will|to) be removed", re.IGNORECASE)


class Announcements(logging.Handler):
    """Keeps the messages that announce an end."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if ANNOUNCED.search(message):
            self.found.append(f"{record.name}: {message}")


ANNOUNCEMENTS = Announcements()
for name in LIBRARIES:
    logging.getLogger(name).addHandler(ANNOUNCEMENTS)


def _watched() -> Generator[None, object, object]:
    ANNOUNCEMENTS.found.clear()
    # transformers logs these once in a process: every test is to see its own
    once = getattr(logging.Logger, "warning_once", None)
    if hasattr(once, "cache_clear"):
        once.cache_clear()
    result = yield
    if ANNOUNCEMENTS.found:
        pytest.fail("deprecated, says " + "; ".join(dict.fromkeys(ANNOUNCEMENTS.found)), pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    """Fixtures are watched too."""
    return (yield from _watched())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """The test itself."""
    return (yield from _watched())
