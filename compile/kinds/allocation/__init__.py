"""The kind ``allocation``: graphs with the components that a mask uses."""
