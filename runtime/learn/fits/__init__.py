"""One fit of a signature, and the trial that decides by held-out samples whether its result is kept."""
