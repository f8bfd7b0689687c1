"""Recordings made at the end of training, so that later removals need no round."""
