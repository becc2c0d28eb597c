"""Conversations of turns: JSON, tables, and logs of messengers and meetings."""

from dpg_fast.data.scripts.chats.exports import read_chats
from dpg_fast.data.scripts.chats.logs import is_log, read_log
from dpg_fast.data.scripts.chats.tables import read_table

__all__ = ["is_log", "read_chats", "read_log", "read_table"]
