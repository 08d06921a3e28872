"""The recipes that are shipped, as TOML files."""
