"""A client for the application over the small bundle."""

from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from isoform.runtime.runtime import Runtime
from isoform.server.app import create_app


@pytest.fixture(scope="session")
def client(runtime: Runtime) -> Iterator[FlaskClient]:
    """A client of an application that reads at most a mebibyte."""
    app = create_app(runtime, max_body_bytes=1 << 20)
    with app.test_client() as client:
        yield client
