"""Self-report: inventories, their administration to models, and scoring."""

from dpg_fast.questionnaire.inventory import Inventory, Item, bundled_inventory, load_inventory
from dpg_fast.questionnaire.published import find_inventory, load_published
from dpg_fast.questionnaire.scoring import TraitScores, score_answers, to_level, to_personality

__all__ = [
    "Inventory",
    "Item",
    "TraitScores",
    "bundled_inventory",
    "find_inventory",
    "load_inventory",
    "load_published",
    "score_answers",
    "to_level",
    "to_personality",
]
