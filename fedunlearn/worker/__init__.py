"""The worker: it leases due requests, removes the data, swaps the model, and issues receipts."""
