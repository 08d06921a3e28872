"""Run the application: a listening socket, worker processes, and uvicorn in each. Nothing here depends on what is served.

serve.py         puts the parts together
listening.py     the listening socket
accepting.py     balances new connections over the processes
processes.py     starts, restarts and stops the processes
uvicorn.py       the server of one process
watched.py       reports what uvicorn's connections do to ``clients/connections.py``
"""
