"""Training on many photographs: memory and waiting."""
