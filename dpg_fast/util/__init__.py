"""Files, progress, statistics and base models: what every package uses and what knows nothing of personalities."""
