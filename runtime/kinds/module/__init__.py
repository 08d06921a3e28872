"""Kind ``module``: any network, whose signatures hold what differs between users: BN, biases, mixtures of its layers, the logits layer."""
