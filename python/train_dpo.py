"""Tune a character on preference pairs.

The same as ``dpg-fast train dpo``, whose ``--help`` lists the options; works under ``accelerate launch`` too.
"""

import sys

from dpg_fast.cli.app import main

COMMAND = ["train", "dpo"]

if __name__ == "__main__":
    main([*COMMAND, *sys.argv[1:]])
