"""Methods of test-time adaptation, one module each. Their names are in ``registry.py``."""
