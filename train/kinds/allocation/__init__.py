"""The kind ``allocation``: learn by straight-through Gumbel-softmax which components each task uses."""
