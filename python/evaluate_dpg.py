"""Measure hypernetworks as DPG was measured, beside their baselines.

The same as ``dpg-fast evaluate dpg``, whose ``--help`` lists the options.
"""

import sys

from dpg_fast.cli.app import main

COMMAND = ["evaluate", "dpg"]

if __name__ == "__main__":
    main([*COMMAND, *sys.argv[1:]])
