"""Benchmarks of kind ``alignment``: the tables of MUIR."""
