"""Fit the likelihood judge's scale to a model's own persona-prompted answers.

The same as ``dpg-fast assess fit-judge``, whose ``--help`` lists the options.
"""

import sys

from dpg_fast.cli.app import main

COMMAND = ["assess", "fit-judge"]

if __name__ == "__main__":
    main([*COMMAND, *sys.argv[1:]])
