"""Loops, sharding, interruption and resuming of a run."""
