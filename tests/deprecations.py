"""Hooks of pytest: a test during which a call of ours meets something that a library calls deprecated fails.

transformers, PEFT, TRL and accelerate announce much of what goes away in their log alone, as transformers 5.24 does of
``past_key_values``, or warn in their own name, as it does of ``gradient_checkpointing``; filters of warnings see neither. A
call is ours if the first frame outside the announcing library is: what PEFT calls in transformers is PEFT's affair.
"""

from __future__ import annotations

import functools
import logging
import re
import sys
import warnings
from collections.abc import Generator
from typing import Any

import pytest

LIBRARIES = ("transformers", "peft", "trl", "accelerate")
OURS = ("dpg_fast", "tests", "benchmarks", "recipes")
BETWEEN = ("torch", "logging", "warnings", "functools", "contextlib", "dataclasses", __name__)
PASSING = tuple(
    f"dpg_fast.model.{name}" for name in ("wrapper", "wrapped", "speaking", "runtime", "surgery")
)  # hand on what they were called with
ITS_OWN = ("transformers.generation.candidate_generator",)  # drafting passes what transformers itself calls deprecated
ANNOUNCED = re.compile(r"deprecat|(will|to) be removed", re.IGNORECASE)
FOUND: list[str] = []


def _note(message: str) -> None:
    """Keep an announcement that is made now if a call of ours led to it."""
    library, passed, frame = None, False, sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        top = module.partition(".")[0]
        own = top in OURS or module.startswith(("test_", "conftest"))
        if module in ITS_OWN:
            return
        if module in BETWEEN or top in BETWEEN or (top == library and not passed):
            pass
        elif library is None:
            if top not in LIBRARIES:
                return  # a warning of somebody else, with which the filters of pyproject.toml deal
            library = top
        elif module in PASSING:
            passed = True
        else:  # may be a library: transformers' drafting calls the wrapper's generate, which calls transformers
            if own:
                FOUND.append(f"{library}, called in {module} line {frame.f_lineno}: {message}")
            return
        frame = frame.f_back  # type: ignore[assignment]


class Announcements(logging.Handler):
    """Notes the messages that announce an end."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if ANNOUNCED.search(message):
            _note(message)


def _noting(warn: Any) -> Any:
    @functools.wraps(warn)
    def wrapped(message: Any, category: Any = None, stacklevel: int = 1, source: Any = None, **more: Any) -> None:
        kind = type(message) if isinstance(message, Warning) else category
        if isinstance(kind, type) and issubclass(kind, (DeprecationWarning, FutureWarning)):
            _note(str(message))
        warn(message, category, stacklevel + 1, source, **more)

    return wrapped


_HANDLER = Announcements(logging.WARNING)
for _name in LIBRARIES:
    logging.getLogger(_name).addHandler(_HANDLER)
warnings.warn = _noting(warnings.warn)


def _watched() -> Generator[None, object, object]:
    FOUND.clear()
    # transformers logs these once in a process: every test is to see its own
    once = getattr(logging.Logger, "warning_once", None)
    if hasattr(once, "cache_clear"):
        once.cache_clear()
    result = yield
    if FOUND:
        pytest.fail("deprecated, says " + "; ".join(dict.fromkeys(FOUND)), pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    """Fixtures are watched too."""
    return (yield from _watched())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """The test itself."""
    return (yield from _watched())
