"""Data sets on disk, and the one that is embedded: one module per format, each returns a ``Dataset``."""
