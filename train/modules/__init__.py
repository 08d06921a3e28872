"""Your own ``nn.Module`` as a bundle: exported by torch, with the weights that differ between users as inputs."""
