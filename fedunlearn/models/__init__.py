"""Networks that a scenario can name."""
