"""Heart disease at several hospitals, federated."""
