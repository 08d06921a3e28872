"""The application factory for other ASGI servers than the one that ``isoform serve`` runs.

    ISOFORM_SERVE='bundle/ --open' granian --interface asgi --factory isoform.server.asgi:application

``ISOFORM_SERVE`` has the arguments of ``isoform serve``, except those that belong to the ASGI server (``OWN``).
"""

from __future__ import annotations

import argparse
import os
import shlex

from isoform.runtime.errors import UsageError
from isoform.server.commands.serve import add_arguments_serve, opened
from isoform.server.http.asgi import Asgi
from isoform.server.process.serve import application_of

__all__ = ["WORDS", "application"]

WORDS = "ISOFORM_SERVE"
OWN = ("host", "port", "unix", "workers", "keep_alive", "drain_seconds", "tls_certificate", "tls_key")


def application() -> Asgi:
    """Create the ASGI application from the arguments in ``ISOFORM_SERVE``.

    Raises:
        UsageError: If ``ISOFORM_SERVE`` is empty, an argument is out of range, or it belongs to the ASGI server.
        BundleError: If the bundle cannot be used.
        StoreError: If the store cannot be opened.
    """
    words = shlex.split(os.environ.get(WORDS, ""))
    if not words:
        raise UsageError(f"{WORDS} is empty, but arguments of 'isoform serve' were expected, like 'bundle/ --open'")
    parser = argparse.ArgumentParser(prog=WORDS)
    add_arguments_serve(parser)
    arguments = parser.parse_args(words)
    for name in OWN:  # refused, because ignoring --host or --tls-key would be a security hole that nobody notices
        if getattr(arguments, name) != parser.get_default(name):
            raise UsageError(
                f"{WORDS} has --{name.replace('_', '-')}, which is an option of the ASGI server; set it there, and leave it out here"
            )
    return application_of(opened(arguments)[0])
