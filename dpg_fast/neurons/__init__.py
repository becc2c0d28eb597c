"""Personality neurons: search, selection, and the table that steers them (NPTI, arXiv 2410.12327)."""

from dpg_fast.neurons.search import SearchSettings, collect_statistics, search_neurons
from dpg_fast.neurons.selection import PoleNeurons, SelectionRule, select_all, select_neurons
from dpg_fast.neurons.statistics import ActivationCounter, PoleStatistics
from dpg_fast.neurons.table import SteeringTable

__all__ = [
    "ActivationCounter",
    "PoleNeurons",
    "PoleStatistics",
    "SearchSettings",
    "SelectionRule",
    "SteeringTable",
    "collect_statistics",
    "search_neurons",
    "select_all",
    "select_neurons",
]
