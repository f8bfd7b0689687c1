"""Images by a convolutional network, federated."""
