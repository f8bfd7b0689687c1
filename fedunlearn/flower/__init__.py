"""Flower apps: training by FedAvg, and nodes that answer rounds."""
