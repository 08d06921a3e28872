"""The compile stage: fold, export, verify, report. Needs ``pip install 'isoform[train]'`` (torch and onnx).

Importing this package imports nothing else; start reading at ``build.py``.
"""
