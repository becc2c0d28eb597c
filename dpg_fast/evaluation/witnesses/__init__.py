"""Witnesses: independent ways to see whether a personality acts, and where they disagree."""
