"""Clients for applications over the small bundle."""

from collections.abc import Iterator

import pytest
import sqlalchemy
from flask.testing import FlaskClient
from postgres import POSTGRES, postgres

from isoform.runtime.runtime import Runtime
from isoform.server.app import create_app
from isoform.server.service.settings import Settings
from isoform.server.store.store import Store


@pytest.fixture(scope="session")
def client(runtime: Runtime) -> FlaskClient:
    """A client of an application that reads at most a mebibyte, and keeps no signatures."""
    return create_app(runtime, settings=Settings(max_body_bytes=1 << 20)).test_client()


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL database."""
    if POSTGRES is None:
        pytest.skip("PostgreSQL is not installed; Debian's package is 'postgresql'")
    with postgres() as url:
        yield url


@pytest.fixture
def emptied(postgresql: str) -> str:
    """The same, without anything in it."""
    engine = sqlalchemy.create_engine(postgresql)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()
    return postgresql


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    """An empty store."""
    with Store(f"sqlite:///{tmp_path / 'signatures.db'}") as store:
        yield store


@pytest.fixture
def keeper(runtime: Runtime, store: Store) -> FlaskClient:
    """A client of an application that keeps signatures."""
    return create_app(runtime, store=store).test_client()
