"""Adaptation: fit a signature to unlabelled samples, one batch or a stream. Start reading at ``adapter.py``, then ``auto.py``."""
