"""Kinds of networks: how a signature's numbers and shared templates become weights. One folder per kind."""
