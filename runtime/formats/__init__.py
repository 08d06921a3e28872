"""Files that isoform reads and writes: bundles, signatures, tensors, and what they are made of."""
