"""What runs the application: a socket, processes, and in each of them uvicorn. Nothing here knows what is served.

serve.py         all of it together
listening.py     the socket
processes.py     started again when they die, stopped together
uvicorn.py       one process's server
watched.py       what uvicorn's connections do, told to those
"""
