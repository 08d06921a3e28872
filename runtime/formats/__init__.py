"""File formats of isoform: bundles, signatures, tensors, and their building blocks."""
