"""On a node: the empirical risk of a user's Task and its derivatives."""
