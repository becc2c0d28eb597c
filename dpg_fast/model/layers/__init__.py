"""Personality-aware layers: how they take the place of a base model's own, what they do in a call, and how they are taken off."""
