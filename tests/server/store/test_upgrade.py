"""A database of an older version is opened as it is: what it holds stays, and what it lacks is added."""

import pytest
import sqlalchemy

from isoform.runtime.errors import StoreError
from isoform.server.store.store import Store

pytestmark = [pytest.mark.trust, pytest.mark.xdist_group("store")]
OLD = """
CREATE TABLE isoform_revisions (task VARCHAR(64) NOT NULL, "user" VARCHAR(64) NOT NULL, revision INTEGER NOT NULL, digest {bytes} NOT NULL,
    parent {bytes}, action VARCHAR(16) NOT NULL, actor VARCHAR(64) NOT NULL, created BIGINT NOT NULL, data {bytes}, PRIMARY KEY (task, "user", revision));
CREATE TABLE isoform_events (id {serial}, created BIGINT NOT NULL, actor VARCHAR(64) NOT NULL, action VARCHAR(32) NOT NULL, task VARCHAR(64),
    "user" VARCHAR(64), revision INTEGER);
CREATE TABLE isoform_jobs (id VARCHAR(32) NOT NULL PRIMARY KEY, task VARCHAR(64) NOT NULL, "user" VARCHAR(64) NOT NULL, action VARCHAR(16) NOT NULL,
    actor VARCHAR(64) NOT NULL, state VARCHAR(16) NOT NULL, step INTEGER NOT NULL, steps INTEGER NOT NULL, revision INTEGER, message VARCHAR(400),
    created BIGINT NOT NULL, updated BIGINT NOT NULL);
INSERT INTO isoform_revisions VALUES ('t', 'a', 1, {digest}, NULL, 'put', 'me', 5, {digest});
INSERT INTO isoform_events (created, actor, action, task, "user", revision) VALUES (6, 'me', 'delete', 't', 'gone', 3), (7, 'me', 'delete', 't', 'gone', 7),
    (8, 'me', 'delete', 't', 'a', 4), (9, 'me', 'unload', 't', NULL, NULL)
"""
"""As isoform made them before there were versions."""
KINDS = {
    "sqlite": {"bytes": "BLOB", "serial": "INTEGER NOT NULL PRIMARY KEY", "digest": f"X'{'ab' * 32}'"},
    "postgresql": {"bytes": "BYTEA", "serial": "SERIAL PRIMARY KEY", "digest": f"decode('{'ab' * 32}', 'hex')"},
}


@pytest.fixture(params=[*KINDS])
def old(request, tmp_path) -> str:
    """The URL of an old database."""
    url = f"sqlite:///{tmp_path / 's.db'}" if request.param == "sqlite" else request.getfixturevalue("emptied")
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        for statement in OLD.format(**KINDS[request.param]).split(";"):
            connection.exec_driver_sql(statement)
    engine.dispose()
    return url


def append(store, user) -> tuple[int, str | None]:
    """Number and parent of another revision."""
    made = store.append("t", user, digest="cd" * 32, data=b"new", action="put", actor="me")
    return made.revision, made.parent


def test_an_old_database_keeps_what_it_holds(old) -> None:
    """Its revisions answer; numbers of those who were deleted are not given again, to nobody; opening it once more changes nothing."""
    for turn in range(2):
        with Store(old) as store:
            if turn == 0:
                assert (store.newest("t", "a").revision, store.data("t", "a", 1)) == (1, b"\xab" * 32)
                assert append(store, "gone") == (8, None)
                assert append(store, "a") == (5, "ab" * 32)
                assert append(store, "new") == (1, None)
            else:
                assert append(store, "gone") == (9, "cd" * 32)
                assert [r.revision for r in store.history("t", "a")] == [5, 1]


def test_a_database_of_the_future_is_refused(old) -> None:
    """One line, and nothing is changed."""
    Store(old).close()
    engine = sqlalchemy.create_engine(old)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE isoform_version SET version = 99")
    engine.dispose()
    with pytest.raises(StoreError, match="has version 99, but at most 1 was expected"):
        Store(old)
