"""Deletion requests: their states, where they are kept, the log of what was done, the receipts."""
