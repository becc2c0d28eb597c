"""One person from one corpus, end to end: the personified data, the two-step tuning and its evaluation (PersLLM)."""
