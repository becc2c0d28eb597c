"""Measuring personalities: methods behind one interface, the protocol, its figures, and a report."""

from dpg_fast.evaluation.figures import MethodFigures, TraitFigures, method_figures
from dpg_fast.evaluation.methods import BareModel, DescriptionPrompt, Method, SimplePrompt, WrappedModel
from dpg_fast.evaluation.protocol import Results, TraitPlan, run_evaluation

__all__ = [
    "BareModel",
    "DescriptionPrompt",
    "Method",
    "MethodFigures",
    "Results",
    "SimplePrompt",
    "TraitFigures",
    "TraitPlan",
    "WrappedModel",
    "method_figures",
    "run_evaluation",
]
