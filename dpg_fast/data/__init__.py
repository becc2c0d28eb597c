"""Texts and records that the rest of the package works on."""
