"""``python -m benchmarks.gpu_run.worker STAGE``: the items of one stage, in a process of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from benchmarks.gpu_run.carried import Stop
from benchmarks.gpu_run.record import Item, opened, work

#: CUDA refuses everything from here on: the parent starts another process for what is left
BROKEN = 3
#: stage -> module and function whose items need the device
ON_DEVICE = {
    "smoke": ("smoke", "items"),
    "model smoke": ("model_smoke", "items"),
    "op times": ("op_times", "items"),
    "whole model": ("whole_model", "items"),
    "rivals": ("whole_model", "rival_items"),
}


def main() -> int:
    """0, or `BROKEN`; 2 when there is nothing to run on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rehearsal", action="store_true")
    options = parser.parse_args()
    with opened(options.out, options.rehearsal) as store:
        if options.stage not in ON_DEVICE:
            from benchmarks.gpu_run import tools

            items = {
                "sanitizer": lambda: tools.sanitizer_items(options.rehearsal),
                "profile": lambda: tools.profile_items(options.rehearsal, options.out),
            }[options.stage]()
            work(store, options.stage, items)
            return 0
        from benchmarks.gpu_run.place import Place, entered

        module, function = ON_DEVICE[options.stage]
        listed: Callable[[Place], Iterator[Item]] = getattr(import_module(f"benchmarks.gpu_run.{module}"), function)
        try:
            with entered(options.rehearsal) as place:
                return 0 if work(store, options.stage, listed(place), place.broken) else BROKEN
        except Stop as reason:
            print(f"error: {reason}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
