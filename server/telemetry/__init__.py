"""Metrics, traces and log lines. They never hold a sample."""
