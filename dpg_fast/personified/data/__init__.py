"""Personified data in the manner of PersLLM (arXiv 2407.12393): material, annotation, preference pairs."""
