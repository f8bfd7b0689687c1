"""A data owner's side: records, commitments, tombstones, and answers to questions about them."""
