"""The `dpg-fast` command: options are parsed here, work is done elsewhere."""
