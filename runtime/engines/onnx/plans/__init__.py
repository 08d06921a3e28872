"""Device plans: building, testing and storing them, and the sessions that run them."""
