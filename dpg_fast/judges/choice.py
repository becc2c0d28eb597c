"""The judge that a user names: the likelihood judge on the model at hand, or a language model behind an API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dpg_fast.judges.base import Judge
from dpg_fast.kernels import isas
from dpg_fast.util.errors import DPGError

LIKELIHOOD, OPENAI = "likelihood", "openai"
KINDS = (LIKELIHOOD, OPENAI)
EVIDENCE, NPTI = "evidence", "npti"
PROTOCOLS = (EVIDENCE, NPTI)


@dataclass(frozen=True)
class JudgeChoice:
    """Which judge, and where it is.

    Args:
        kind: "likelihood" (needs no network) or "openai" (any server with that API).
        model: name of the judge's model as its server knows it; only for "openai", and needed there.
        url: of the server; None is OpenAI's.
        key_env: environment variable with the key.
        protocol: what an API's model is asked: "npti" (ratings 1 to 5, a call for each trait) or "evidence" (all traits in one
            call, with quotations, none where there is no evidence).
        headers: name of a header to send -> environment variable that holds its value.
        query: parameters of the address, such as Azure's "api-version".

    Raises:
        ValueError: an unknown kind, or options that do not belong together.
    """

    kind: str = LIKELIHOOD
    model: str | None = None
    url: str | None = None
    key_env: str = "OPENAI_API_KEY"
    protocol: str = NPTI
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DPGError(f"unknown judge {self.kind!r}; accepted: {', '.join(KINDS)}")
        if self.protocol not in PROTOCOLS:
            raise DPGError(f"unknown protocol {self.protocol!r}; accepted: {', '.join(PROTOCOLS)}")
        if self.kind == OPENAI and not self.model:
            raise DPGError("name the judge's model with --judge-model")
        if self.kind == LIKELIHOOD and (self.model or self.url or self.headers or self.query):
            raise DPGError("--judge-model, --judge-url, --header and --query go with --judge openai")

    def make(self, base: Any, tokenizer: Any, replies: Path) -> Judge:
        """The judge.

        Args:
            base: the bare model, which the likelihood judge asks.
            tokenizer: its tokenizer.
            replies: file that keeps an API's replies, so that none is paid twice.
        """
        if self.kind == LIKELIHOOD:
            from dpg_fast.judges.likelihood import LikelihoodJudge

            return LikelihoodJudge(base, tokenizer, autocast=fast_dtype())
        from dpg_fast.judges.evidence import EvidenceJudge
        from dpg_fast.judges.llm import LLMJudge
        from dpg_fast.llm.server import Server

        assert self.model is not None
        server = Server(self.model, self.url, self.key_env, headers=self.headers, query=self.query)
        client = server.client(replies)
        return EvidenceJudge(client) if self.protocol == EVIDENCE else LLMJudge(client)


def fast_dtype() -> torch.dtype | None:
    """bfloat16 where the processor multiplies that natively: twice as fast for a judge."""
    return torch.bfloat16 if "avx512bf16" in isas() else None
