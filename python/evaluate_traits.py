"""Measure whether and how well personalities show, and what they cost, beside prompting and the bare model.

The same as ``dpg-fast evaluate traits``, whose ``--help`` lists the options.
"""

import sys

from dpg_fast.cli.app import main

COMMAND = ["evaluate", "traits"]

if __name__ == "__main__":
    main([*COMMAND, *sys.argv[1:]])
