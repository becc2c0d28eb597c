"""Tune a character on its conversations (the first step of PersLLM's two), with TRL.

    python python/train_personified.py --config recipes/marit_oss_sft.yaml
    accelerate launch python/train_personified.py --config recipes/marit_oss_sft.yaml trainer.learning_rate=5e-4 lora.rank=8

Settings are those of dpg_fast.personified.train.SftSettings. A killed run continues from its last checkpoint when it is started
again.
"""

from __future__ import annotations

import argparse

from rich.console import Console

from dpg_fast.cli.errors import one_line_errors
from dpg_fast.personified.train import SftSettings, run_sft
from dpg_fast.train import read_settings, settings_arguments


def parse() -> argparse.Namespace:
    return settings_arguments(__doc__)


def main() -> None:
    options = parse()
    with one_line_errors("train_personified.py"):
        written = run_sft(read_settings(SftSettings, options.config, options.overrides))
    Console().print(f"Written to {written}")


if __name__ == "__main__":
    main()
