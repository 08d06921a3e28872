"""The kind ``allocation``: every task uses some of the components of each layer. Source: Maziarz et al., Gumbel-Matrix (2019)."""
