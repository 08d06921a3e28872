"""Serving: the servers, their clients, and load."""
