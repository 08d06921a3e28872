"""Compiling kind ``module``: the user's network, with its weights as inputs, as constants, and as a file of its own."""
