"""Load on OpenAI-compatible servers, side by side: ``python -m benchmarks.serving --help``."""
