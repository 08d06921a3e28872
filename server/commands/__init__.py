"""The commands ``isoform serve`` and ``isoform key``."""
