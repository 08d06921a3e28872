"""Reading samples from a user's files, with the same rules for every command. Start reading at ``labelled.py`` and ``listing.py``."""
