"""Questions that bring out a trait: the written ones, those of PersonalityBench, and the builder of new ones."""
