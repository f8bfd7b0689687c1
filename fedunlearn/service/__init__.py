"""The deletion service: its gRPC server, what it refuses, and its client."""
