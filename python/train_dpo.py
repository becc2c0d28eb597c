"""Tune a character on preference pairs that nobody labelled (the second step of PersLLM's two), with TRL.

    python python/train_dpo.py --config recipes/marit_oss_dpo.yaml
    accelerate launch python/train_dpo.py --config recipes/marit_oss_dpo.yaml trainer.beta=0.2

Settings are those of dpg_fast.personified.train.DpoSettings. A killed run continues from its last checkpoint when it is started
again.
"""

from __future__ import annotations

import argparse

from rich.console import Console

from dpg_fast.cli.errors import one_line_errors
from dpg_fast.personified.train import DpoSettings, run_dpo
from dpg_fast.train import read_settings, settings_arguments


def parse() -> argparse.Namespace:
    return settings_arguments(__doc__)


def main() -> None:
    options = parse()
    with one_line_errors("train_dpo.py"):
        written = run_dpo(read_settings(DpoSettings, options.config, options.overrides))
    Console().print(f"Written to {written}")


if __name__ == "__main__":
    main()
