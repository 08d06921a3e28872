"""Figures, all in one style (``style.py``), drawn by matplotlib. Nothing here is imported but to draw."""
