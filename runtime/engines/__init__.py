"""Engines: run a network with the weights of a signature. One folder per engine."""
