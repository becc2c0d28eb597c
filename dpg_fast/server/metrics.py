"""What /metrics tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics"]

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one server.

    Args:
        active: tells how many answers are running or waiting.
    """

    def __init__(self, active: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "dpg_fast_requests", "HTTP requests that were answered.", ["route", "status"], registry=registry
        )
        self.answers = Counter("dpg_fast_answers", "Answers that ended, and how.", ["finish"], registry=registry)
        self.prompt_tokens = Counter("dpg_fast_prompt_tokens", "Tokens of prompts.", registry=registry)
        self.tokens = Counter("dpg_fast_generated_tokens", "Tokens of answers.", registry=registry)
        self.first = Histogram(
            "dpg_fast_first_token_seconds", "From the request to its first token.", buckets=SECONDS, registry=registry
        )
        self.whole = Histogram(
            "dpg_fast_answer_seconds", "From the request to the end of its answer.", buckets=SECONDS, registry=registry
        )
        Gauge("dpg_fast_active", "Answers that run or wait.", registry=registry).set_function(active)

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self._registry)
