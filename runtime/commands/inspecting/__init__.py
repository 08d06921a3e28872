"""What ``isoform inspect`` says: all of it as JSON types (``facts.py``), and about ten lines for a person. Start at ``facts.py``."""
