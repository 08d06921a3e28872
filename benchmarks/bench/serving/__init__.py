"""Serving: the servers, their clients, and load; `rivals/` has what runs in the rivals' own environments."""
