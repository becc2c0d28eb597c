"""The engine: requests with personalities of their own in one running batch of one model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dpg_fast.compat.continuous_batching import ContinuousBatching, PromptPart
from dpg_fast.model import PersonalityModel
from dpg_fast.model.speaking import Speaking
from dpg_fast.personality.row import Row
from dpg_fast.server.sampling import Chosen, Sampler, TokenSampling
from dpg_fast.serving.admission import characters_of
from dpg_fast.util.errors import DPGError

__all__ = ["BatchEngine", "BatchJob", "Busy", "EngineLimits"]


class Busy(RuntimeError):
    """The engine has as many requests as it takes."""


@dataclass(frozen=True)
class EngineLimits:
    """What an engine takes.

    Attributes:
        running: requests in one step.
        waiting: requests beyond those, before more are refused.
        step_tokens: in one step; longer prompts are taken in parts.
        cache_tokens: of all running requests together.
    """

    running: int = 64
    waiting: int = 192
    step_tokens: int = 512
    cache_tokens: int = 16384


@dataclass
class BatchJob:
    """One answer that is wanted. The functions are called in the engine's thread, and must not wait.

    Attributes:
        request: an id that no other has.
        prompt: ids, at least one.
        row: what it asks to be; None is the base model.
        max_new_tokens: at least 1.
        eos: tokens that end the answer.
        sampling: how tokens are chosen.
        token: is given each token, one that ends the answer too.
        ended: is given None, or what went wrong.
    """

    request: str
    prompt: Sequence[int]
    row: Row | None
    max_new_tokens: int
    eos: Sequence[int]
    token: Callable[[Chosen], None]
    ended: Callable[[str | None], None]
    sampling: TokenSampling = field(default_factory=TokenSampling)


class BatchEngine:
    """Continuous batching of one `PersonalityModel`. Nothing else may call the model while it runs.

    Args:
        model: its personalities act as in :meth:`PersonalityModel.generate`.
        limits: of it.

    Attributes:
        context: most tokens of a prompt and its answer.
        characters: names of the model's stored adapters.

    Raises:
        ValueError: a model of another kind than can be served.
    """

    def __init__(self, model: PersonalityModel, limits: EngineLimits | None = None) -> None:
        self.limits = limits = limits or EngineLimits()
        self._runtime = model._runtime
        if self._runtime.options.random_mask is not None:
            raise DPGError(
                "a random mask of the neurons depends on the batch, and is not served; take it out of the steering"
            )
        self._steers_prompt = self._runtime.options.tokens == "all"
        config: Any = model.base.config
        self.context: int = min(
            getattr(config.get_text_config(), "max_position_embeddings", None) or limits.cache_tokens,
            limits.cache_tokens,
        )
        self.device = model.device
        self.characters = characters_of(model.hypernet)
        self._jobs: dict[str, tuple[BatchJob, Sampler]] = {}
        self._lock = threading.Lock()
        self._loop = ContinuousBatching(
            model.base.eval(),
            requests=limits.running,
            step_tokens=limits.step_tokens,
            cache_tokens=limits.cache_tokens,
            around=self._speaking,
            sample=self._choose,
            ended=self._ended,
        )
        self._loop.start()

    def __len__(self) -> int:
        """Requests that run or wait."""
        return len(self._jobs)

    @property
    def failure(self) -> str | None:
        """Why no request is taken any more; None while all is well."""
        return self._loop.failure

    def check(self, row: Row | None, prompt: int = 1, new_tokens: int = 1) -> None:
        """Refuse what the model cannot do.

        Args:
            row: what a request asks to be.
            prompt, new_tokens: how long its prompt is, and its answer may get.

        Raises:
            ValueError: it cannot be given, or does not fit.
        """
        self._runtime.check([row])
        if prompt + new_tokens > self.context:
            raise DPGError(
                f"the context holds {self.context} tokens; the prompt has {prompt}, and {new_tokens} are asked for"
            )

    def submit_all(self, jobs: Sequence[BatchJob]) -> list[str]:
        """Have all of some jobs done, or none; their functions are called from here on. Gives their ids.

        Raises:
            ValueError: see :meth:`check`.
            Busy: too many requests run and wait.
            RuntimeError: the engine has stopped.
        """
        for job in jobs:
            self.check(job.row, len(job.prompt), job.max_new_tokens)
        most = self.limits.running + self.limits.waiting
        if len(jobs) > most:
            raise DPGError(f"one request may ask for {most} answers, not {len(jobs)}")
        with self._lock:
            if len(self._jobs) + len(jobs) > most:
                raise Busy(f"{len(self._jobs)} answers are running or waiting, of {most} that are taken at once")
            self._jobs |= {job.request: (job, Sampler(job.sampling)) for job in jobs}
        if not all([self._loop.add(job.request, job.prompt, job.max_new_tokens, job.eos) for job in jobs]):
            for job in jobs:
                self.cancel(job.request)
            raise RuntimeError(f"the engine takes no more requests: {self.failure or 'it is stopping'}")
        return [job.request for job in jobs]

    def cancel(self, request: str) -> None:
        """End a job; none of its functions is called from here on. Nothing happens where it has ended."""
        if self._jobs.pop(request, None) is not None:
            self._loop.cancel(request)

    def stop(self, *, finish: bool = True, timeout: float | None = None) -> None:
        """Take no more jobs, and finish those that run or, where not, end them with an error."""
        self._loop.stop(finish=finish, timeout=timeout)

    def _speaking(self, parts: Sequence[PromptPart]) -> AbstractContextManager[Any]:
        """A step's forward, each token with the personality of its request."""
        rows: list[Row | None] = []
        segments: list[int] = []
        unsteered: list[bool] = []
        for part in parts:
            known = self._jobs.get(part.request)  # None: it was cancelled, and nobody waits for its tokens
            segments += [len(rows)] * part.tokens
            rows.append(known[0].row if known is not None else None)
            prompt = 0 if known is None or self._steers_prompt else len(known[0].prompt)
            unsteered += [part.before + token < prompt for token in range(part.tokens)]
        return Speaking(
            self._runtime,
            rows,
            segments=torch.tensor([segments]),
            unsteered=torch.tensor([unsteered], device=self.device),
        )

    def _choose(self, requests: Sequence[str], logits: Tensor) -> Tensor:
        """Next tokens."""
        likeliest = logits.argmax(-1)
        chosen = likeliest.tolist()
        for number, request in enumerate(requests):
            known = self._jobs.get(request)
            if known is None:
                continue
            job, sampler = known
            try:
                found = sampler(logits[number], chosen[number])
            except DPGError as error:  # ends this answer, not the loop
                self.cancel(request)
                job.ended(str(error))
                continue
            chosen[number] = found.token
            job.token(found)
        return torch.tensor(chosen, device=likeliest.device)

    def _ended(self, request: str, error: str | None) -> None:
        known = self._jobs.pop(request, None)
        if known is not None:
            known[0].ended(error)
