"""What the harness's YAML files name: it imports this file by its path, so the code itself is in the package."""

from dpg_fast.evaluation.harness_tasks import choose, inventory, rate, situations

__all__ = ["choose", "inventory", "rate", "situations"]
