"""Image files → arrays: which files are images, the value range of their pixels, and resizing to the network's input."""
