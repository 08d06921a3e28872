"""How each kind of network is exported and verified. One folder per kind."""
