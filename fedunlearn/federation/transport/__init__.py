"""Ways to carry a round: calls, Flower messages."""
