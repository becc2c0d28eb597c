"""Scripts as data: screenplays, plays, transcripts, subtitles, chats, tables and novels, read into scenes and speeches."""

from dpg_fast.data.scripts.corpus import Corpus, read_corpus
from dpg_fast.data.scripts.names import load_aliases, merge_speakers
from dpg_fast.data.scripts.reader import FORMATS, find_scripts, read_script
from dpg_fast.data.scripts.script import Direction, Part, Problem, Scene, Script, Speech

__all__ = [
    "FORMATS",
    "Corpus",
    "Direction",
    "Part",
    "Problem",
    "Scene",
    "Script",
    "Speech",
    "find_scripts",
    "load_aliases",
    "merge_speakers",
    "read_corpus",
    "read_script",
]
