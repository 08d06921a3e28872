"""The prediction server: a Flask application over one bundle, speaking the Open Inference Protocol (V2 REST).

Needs ``pip install 'isoform[server]'``. Imports the runtime and nothing above it. Start reading at ``app.py``, then ``front.py`` and ``routes/inference.py``.
"""
