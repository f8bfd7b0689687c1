"""Metrics, tables, plots and the report."""
