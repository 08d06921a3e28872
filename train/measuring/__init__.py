"""What is measured and kept while a network trains: validation, the best state, what tasks use over time."""
