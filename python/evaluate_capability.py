"""Measure what a personality costs on tasks of lm-evaluation-harness.

The same as ``dpg-fast evaluate capability``, whose ``--help`` lists the options.
"""

import sys

from dpg_fast.cli.app import main

COMMAND = ["evaluate", "capability"]

if __name__ == "__main__":
    main([*COMMAND, *sys.argv[1:]])
