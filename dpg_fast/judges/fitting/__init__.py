"""Fitting the likelihood judge to a model: what tells the poles of a trait apart, and the run that finds it."""
