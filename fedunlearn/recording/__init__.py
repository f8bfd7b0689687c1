"""What is recorded as the last act of training, so that removals need no round afterwards."""
