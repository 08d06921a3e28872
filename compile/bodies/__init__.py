"""Graphs for learning on the device, of networks of any architecture."""
