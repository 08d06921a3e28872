"""Adapting to unlabelled samples: networks, corruptions, streams, and torch Tent beside them."""
