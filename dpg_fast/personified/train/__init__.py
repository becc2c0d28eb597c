"""Personified tuning in two steps on TRL, in the manner of PersLLM (arXiv 2407.12393): conversations, then automatic DPO."""

from dpg_fast.personified.train.dpo import run_dpo
from dpg_fast.personified.train.settings import (
    ConversationSettings,
    DpoSettings,
    LoraSettings,
    PairDataSettings,
    SftSettings,
)
from dpg_fast.personified.train.sft import run_sft
from dpg_fast.personified.train.tuned import check_tuned, load_tuned

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
