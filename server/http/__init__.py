"""The ASGI application, for any ASGI server. No HTTP is parsed here.

asgi.py       the stages of a request: authenticate, read the body, answer, send
environ.py    convert an ASGI scope to a WSGI environment
"""
