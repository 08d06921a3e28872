"""HTTP as ASGI has it: the application that any ASGI server can run. No HTTP is parsed here.

asgi.py       in which order a request is judged, read, answered and sent
environ.py    an ASGI scope as WSGI's environment
transfer.py   bodies in and answers out, with deadlines and a total of bytes
"""
