"""The tables of Compositional Models: data, recipes and baselines."""
