"""Data sets, partitions, models: what a scenario can name."""
