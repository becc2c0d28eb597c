"""Adapters on disk, and what ties them to a base model and to results: fingerprints and digests."""
