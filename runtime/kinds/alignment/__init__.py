"""Kind ``alignment``: the parameters of any networks, cut into equal blocks that shared hypermodules generate (MUIR)."""
