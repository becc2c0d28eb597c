"""``python -m dpg_fast``: the ``dpg-fast`` command, where scripts are not on the path."""

from dpg_fast.cli.app import main

if __name__ == "__main__":
    main()
