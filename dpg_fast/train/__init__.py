"""Training of hypernetworks: lessons of a persona-prompted teacher or recorded dialogue, by transformers' Trainer."""

from dpg_fast.train.lessons import Lesson, LessonSettings, load_lessons, make_lessons
from dpg_fast.train.loss import batch_loss, target_loss
from dpg_fast.train.rows import Rows, TrainingRow, collate, taught_sources, text_sources
from dpg_fast.train.run import run_training
from dpg_fast.train.settings import DataSettings, TrainSettings, load_settings, read_settings
from dpg_fast.train.teacher import PersonaTeacher, TeacherSettings
from dpg_fast.train.trainer import HypernetTrainer

__all__ = [
    "DataSettings",
    "HypernetTrainer",
    "Lesson",
    "LessonSettings",
    "PersonaTeacher",
    "Rows",
    "TeacherSettings",
    "TrainSettings",
    "TrainingRow",
    "batch_loss",
    "collate",
    "load_lessons",
    "load_settings",
    "make_lessons",
    "read_settings",
    "run_training",
    "target_loss",
    "taught_sources",
    "text_sources",
]
