"""Wire formats, generated from ``protos/``; ``make protos`` writes them anew."""
