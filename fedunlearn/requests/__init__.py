"""Deletion requests: their states, their store, the log of actions, and the receipts."""
