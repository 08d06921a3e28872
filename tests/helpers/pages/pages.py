"""The page of a server in the test's own process, for tests of the page's scripts and of bundles that no process can serve."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from support import SMALL, make_bundle
from werkzeug.serving import make_server

from isoform.runtime.formats.bundle import Bundle
from isoform.runtime.runtime import Runtime
from isoform.server.app import create_app
from isoform.server.store.store import Store


@contextlib.contextmanager
def local_page(bundle: Bundle | None = None) -> Iterator[str]:
    """Serve a bundle, by default a small one of random numbers, with a store; gives the server's address."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "bundle"
        path.mkdir()
        (bundle or make_bundle(SMALL)).write(path)
        with (
            Runtime.open(path, engine="reference") as runtime,
            Store(f"sqlite:///{folder}/signatures.db") as store,
        ):
            server = make_server("127.0.0.1", 0, create_app(runtime, store=store), threaded=True)
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.port}"
            finally:
                server.shutdown()
                thread.join()
                server.server_close()
