"""Train a hypernetwork that generates LoRA weights from a personality.

    python python/train_hypernet.py --config recipes/smollm2_cpu.yaml
    python python/train_hypernet.py --config recipes/smollm2_cpu.yaml trainer.learning_rate=1e-3 hypernet.rank=8
    accelerate launch --config_file recipes/fsdp.yaml python/train_hypernet.py --config my.yaml

Settings are those of dpg_fast.train.TrainSettings. A killed run continues from its last checkpoint when it is started again.
"""

from __future__ import annotations

import argparse

from rich.console import Console

from dpg_fast.cli.errors import one_line_errors
from dpg_fast.train import load_settings, run_training, settings_arguments
from dpg_fast.util.progress import progress_bars


def parse() -> argparse.Namespace:
    return settings_arguments(__doc__)


def main() -> None:
    options = parse()
    console = Console()
    with one_line_errors("train_hypernet.py"):
        settings = load_settings(options.config, options.overrides)
        with progress_bars(console) as report:
            adapter = run_training(settings, lambda done, total: report("lessons", done, total))
    console.print(f"Written to {adapter}")


if __name__ == "__main__":
    main()
