"""Data for training: embedded digits, the standard formats on disk, domains, downloads. Start reading at ``load.py``."""
