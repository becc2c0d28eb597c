"""Kernels against their rivals on the shapes of real models, each checked against float64 before it is timed."""

from __future__ import annotations

from benchmarks.kernels.suite import NOTES, Options, run

__all__ = ["NOTES", "Options", "run"]
