"""Graphs of the kind ``mixture``: the network, and one block forward and backward for learning on the device."""
