"""Scripts as data: screenplays, plays, transcripts, subtitles, chats and novels, read into scenes and speeches."""

from dpg_fast.data.scripts.names import load_aliases, merge_speakers
from dpg_fast.data.scripts.reader import FORMATS, find_scripts, read_script
from dpg_fast.data.scripts.script import Direction, Part, Problem, Scene, Script, Speech

__all__ = [
    "FORMATS",
    "Direction",
    "Part",
    "Problem",
    "Scene",
    "Script",
    "Speech",
    "find_scripts",
    "load_aliases",
    "merge_speakers",
    "read_script",
]
