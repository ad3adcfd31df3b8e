"""Judging a canary by its traffic: pure functions on counts, without I/O."""
