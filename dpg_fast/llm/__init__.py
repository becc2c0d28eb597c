"""Calls to language models behind an OpenAI-compatible API: one client, with a cache, for all of them."""

from dpg_fast.llm.cache import Reply, ReplyCache, StoredFailure
from dpg_fast.llm.calls import Call, Failure, Result, estimate_tokens
from dpg_fast.llm.client import LLMClient
from dpg_fast.llm.fence import Fence, defuse
from dpg_fast.llm.prices import Price, PriceTable, Usage
from dpg_fast.llm.results import Plan, Run
from dpg_fast.llm.settings import LLMError, LLMSettings

__all__ = [
    "Call",
    "Failure",
    "Fence",
    "LLMClient",
    "LLMError",
    "LLMSettings",
    "Plan",
    "Price",
    "PriceTable",
    "Reply",
    "ReplyCache",
    "Result",
    "Run",
    "StoredFailure",
    "Usage",
    "defuse",
    "estimate_tokens",
]
