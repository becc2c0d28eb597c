"""Personified tuning in two steps on TRL, in the manner of PersLLM (arXiv 2407.12393): conversations, then automatic DPO."""

from dpg_fast.train.personified.dpo import run_dpo
from dpg_fast.train.personified.settings import (
    ConversationSettings,
    DpoSettings,
    LoraSettings,
    PairDataSettings,
    SftSettings,
)
from dpg_fast.train.personified.sft import run_sft
from dpg_fast.train.personified.tuned import check_tuned, load_tuned

__all__ = [
    "ConversationSettings",
    "DpoSettings",
    "LoraSettings",
    "PairDataSettings",
    "SftSettings",
    "check_tuned",
    "load_tuned",
    "run_dpo",
    "run_sft",
]
