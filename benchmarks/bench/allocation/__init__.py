"""The tables of Gumbel-Matrix, run again."""
