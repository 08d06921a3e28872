"""The kind ``mixture``: every layer of an isometric network is a mixture of shared template blocks."""
