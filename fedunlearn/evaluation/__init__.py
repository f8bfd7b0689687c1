"""Metrics, attacks and the comparison with retrained models: numbers only."""
