"""`PersonalityModel` and what it is made of: surgery on the base model, slots, calibration, adapters on disk."""

from dpg_fast.model.calibration import Calibration
from dpg_fast.model.guard import ExtremeSettingWarning
from dpg_fast.model.steering import SteeringOptions
from dpg_fast.model.wrapper import PersonalityModel

__all__ = ["Calibration", "ExtremeSettingWarning", "PersonalityModel", "SteeringOptions"]
