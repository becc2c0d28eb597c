"""A judge of answers against a reference, after PersLLM: knowledge and attitude accuracy, and ranking."""
