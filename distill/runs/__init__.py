"""A run's folder: what was asked for, what came of it."""
