"""Metrics, traces and the access log. They never contain samples."""
