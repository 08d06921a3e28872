"""What is borne of clients: how slow, how silent, how many and how much at a time. No HTTP in here, and no server.

transfer.py      bodies in and answers out, with deadlines and a total of bytes
connections.py   connections that are silent, endless, or too many
"""
