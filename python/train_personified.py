"""Tune a character on its conversations.

The same as ``dpg-fast train characters``, whose ``--help`` lists the options; works under ``accelerate launch`` too.
"""

import sys

from dpg_fast.cli.app import main

COMMAND = ["train", "characters"]

if __name__ == "__main__":
    main([*COMMAND, *sys.argv[1:]])
