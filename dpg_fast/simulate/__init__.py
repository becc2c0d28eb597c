"""Conversations between simulated people: scenarios, who speaks next, batched generation, transcripts, comparison."""
