"""``dpg-fast simulate``: the command and what it does."""
