"""Transports of a round: calls in the process, gRPC streams."""
