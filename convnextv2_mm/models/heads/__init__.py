"""Heads: losses and predictions."""
