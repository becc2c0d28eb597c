"""Train a hypernetwork that generates LoRA weights from a personality.

The same as ``dpg-fast train hypernet``, whose ``--help`` lists the options; works under ``accelerate launch`` too.
"""

import sys

from dpg_fast.cli.app import main

COMMAND = ["train", "hypernet"]

if __name__ == "__main__":
    main([*COMMAND, *sys.argv[1:]])
