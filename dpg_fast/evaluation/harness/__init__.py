"""What a personality costs: tasks of lm-evaluation-harness with and without it. lm_eval is imported when a task is run."""

from dpg_fast.evaluation.harness.run import Cost, Examinee, measure_capability
from dpg_fast.evaluation.harness.tasks import OFFLINE

__all__ = ["OFFLINE", "Cost", "Examinee", "measure_capability"]
