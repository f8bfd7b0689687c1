"""Scenarios from start to end, where all data are at hand: run, compare, tune, evaluate."""
