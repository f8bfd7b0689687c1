"""Metrics, attacks and what retrained models tell: numbers only."""
