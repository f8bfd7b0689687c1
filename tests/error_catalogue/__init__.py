"""Every error of the catalogue in the documentation, produced by a real call."""
