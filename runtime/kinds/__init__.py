"""Kinds of networks: how a signature and shared templates become weights. One folder per kind."""
