"""The worker: takes due requests, has them removed, swaps the model, issues the receipts."""
