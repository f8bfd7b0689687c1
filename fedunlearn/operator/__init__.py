"""Removals that an operator runs in a federation: remover, model store, and worker loop."""
