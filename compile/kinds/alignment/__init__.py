"""Kind ``alignment``: export of one graph per task, each with the weights that its blocks make."""
