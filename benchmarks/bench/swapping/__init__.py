"""Swapping users: networks, rivals, and what is drawn of it."""
