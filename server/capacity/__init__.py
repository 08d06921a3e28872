"""Limits of a process: how many requests wait, how fast callers ask, how much memory requests hold."""
