"""Image files → planes of numbers: which files are pictures, what their pixels mean, how they become the size that a network takes."""
