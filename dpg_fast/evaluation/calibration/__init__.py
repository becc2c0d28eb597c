"""Calibration: how strongly to steer so that a requested level shows in the answers. A sweep, a monotone fit, a guard."""

from dpg_fast.evaluation.calibration.fit import DosePoint, Guard, PoleFit, fit_pole, monotone_knots
from dpg_fast.evaluation.calibration.sweep import NeuronSteerer, Steerer, Sweep, run_sweep

__all__ = [
    "DosePoint",
    "Guard",
    "NeuronSteerer",
    "PoleFit",
    "Steerer",
    "Sweep",
    "fit_pole",
    "monotone_knots",
    "run_sweep",
]
