"""Unlearning methods, one per file, and their registry."""
