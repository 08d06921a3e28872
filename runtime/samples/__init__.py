"""Samples from a user's files: one reader with one policy for every command. Start reading at ``labelled.py`` and ``listing.py``."""
