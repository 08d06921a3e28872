"""Recordings of sensors: tables cut into windows."""
