"""Labelled datasets: scripts cut into segments, judged, augmented, split and written."""

from dpg_fast.data.labelled.build import CharacterRecord, Dataset, build
from dpg_fast.data.labelled.centres import Centre
from dpg_fast.data.labelled.prepare import Prepared, prepare
from dpg_fast.data.labelled.settings import LabelSettings

__all__ = ["Centre", "CharacterRecord", "Dataset", "LabelSettings", "Prepared", "build", "prepare"]
