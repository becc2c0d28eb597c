"""Proof on the user's own model that its personalities act and that nothing else changes."""
