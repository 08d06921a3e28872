"""The training stage: shared templates and per-task signatures from data. Needs ``pip install 'isoform[train]'``.

Importing this package imports nothing else; start reading at ``kind.py``, then ``loop.py``.
"""
