"""Kind ``alignment``: training, with the search for which hypermodule generates which block (MUIR). Your own modules: ``align``."""
