"""Limits on slow, silent and too many clients. No HTTP parsing here, and no server.

transfer.py      receive bodies and send answers, with deadlines and a limit on their total size
connections.py   close connections that are silent, send endless heads, or are too many
"""
