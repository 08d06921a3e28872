"""Who accepts connections: gunicorn with a worker of our own, or waitress.

gunicorn.py      the server: its processes, and how it stops
gthread.py       a process: which request is answered by whom
short.py         a short prediction, split in one go
patience.py      below it: a request is collected before anybody gets it
collecting.py    one request while it is collected
client.py        a client's socket, that nobody waits for without an end
waitress.py      one process, where gunicorn cannot run
"""
