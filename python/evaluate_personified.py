"""Measure tuned characters beside prompting.

The same as ``dpg-fast evaluate personified``, whose ``--help`` lists the options.
"""

import sys

from dpg_fast.cli.app import main

COMMAND = ["evaluate", "personified"]

if __name__ == "__main__":
    main([*COMMAND, *sys.argv[1:]])
