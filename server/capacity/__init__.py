"""Limits per process: length of the queue, request rate of a caller, memory held by requests."""
