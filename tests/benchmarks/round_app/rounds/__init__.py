"""The apps of the benchmark."""
