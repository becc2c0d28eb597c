"""Evaluation of tuned characters beside prompting, after PersLLM (arXiv 2407.12393): who differs from whom,
what is known, what is resisted, and when it is."""
