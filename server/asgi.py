"""For other ASGI servers than ``isoform serve``'s own: what they are given to run.

    ISOFORM_SERVE='bundle/ --open' granian --interface asgi --factory isoform.server.asgi:application

The words are those of ``isoform serve``, without those that are that server's own (``OWN``).
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
    """The ASGI application that the environment describes.

    Raises:
        UsageError: If nothing is described, an argument is out of range, or it is for the server to know.
        BundleError: If the bundle cannot be used.
        StoreError: If the store cannot be opened.
    """
    words = shlex.split(os.environ.get(WORDS, ""))
    if not words:
        raise UsageError(f"{WORDS} is empty, but the words behind 'isoform serve' were expected, like 'bundle/ --open'")
    parser = argparse.ArgumentParser(prog=WORDS)
    add_arguments_serve(parser)
    arguments = parser.parse_args(words)
    for name in OWN:
        if getattr(arguments, name) != parser.get_default(name):
            raise UsageError(
                f"{WORDS} has --{name.replace('_', '-')}, which the server decides that runs this; tell that server, and leave it out"
            )
    return application_of(opened(arguments)[0])
