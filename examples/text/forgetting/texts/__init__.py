"""Texts by a transformer with LoRA, federated."""
