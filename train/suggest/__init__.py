"""``isoform recipe``: the recipes that are shipped, and a new one that fits a user's data. Start reading at ``survey.py``."""
