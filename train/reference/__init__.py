"""Every field of every recipe for people to read: docs/recipes.md and ``isoform train --help``. Start reading at ``described.py``."""
