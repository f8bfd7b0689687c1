"""What server and nodes say to each other: what leaves, questions, answers, and their wire form."""
