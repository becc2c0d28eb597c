"""Names of TRL that tuning a character relies on. Importing this module does not import TRL."""

from __future__ import annotations

REFERENCE_ADAPTER = "ref"
"""The frozen copy of a PEFT model's adapter that ``DPOTrainer`` makes."""

REFERENCE_LOSS = "compute_ref_log_probs"
"""Method of ``DPOTrainer`` that runs the reference; also called while it is being built, when it precomputes."""
