"""An OpenAI-compatible server whose every request has a personality of its own, and its page."""
