"""A plugin for vLLM: thousands of personalities from one engine. Nothing else in the package imports vLLM."""
