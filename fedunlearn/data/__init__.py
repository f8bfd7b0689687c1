"""Data sets and partitions that a scenario can name."""
