"""Scenarios from start to end: run, compare, tune and demonstrate with all data at hand."""
