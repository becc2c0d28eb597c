"""Prompts, answers and records: what is asked of plain models, and what they say."""
