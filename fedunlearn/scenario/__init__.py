"""Scenario files: settings, defaults, errors."""
