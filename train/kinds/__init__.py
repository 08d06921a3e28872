"""How each kind of network is trained. One folder per kind."""
