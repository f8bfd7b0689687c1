"""Scenarios, run from start to end."""
