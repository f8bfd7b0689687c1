"""Version 1, generated."""
