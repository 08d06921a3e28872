"""HTTP as ASGI has it: the application that any ASGI server can run. No HTTP is parsed here.

asgi.py       in which order a request is judged, read, answered and sent
environ.py    an ASGI scope as WSGI's environment
"""
