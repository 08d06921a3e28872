"""The command ``isoform key``: create, list and revoke API keys directly in the server's store."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from isoform.runtime.errors import UsageError
from isoform.runtime.tables import aligned
from isoform.server.access.keys import Key, Keys
from isoform.server.opening import store_url
from isoform.server.store.store import Store, moment

__all__ = ["add_arguments_key", "run_key"]


def add_arguments_key(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``isoform key``."""
    add = parser.add_argument
    add("what", choices=("add", "list", "revoke"), help="what to do")
    add("name", nargs="?", help="add: name of the caller, recorded with each revision; revoke: id of the key")
    add("--store", default="isoform.db", help="the server's store, as for isoform serve (default: isoform.db)")
    add(
        "--scope",
        action="append",
        default=[],
        metavar="SCOPE",
        help="admin, metrics, predict, predict:NAME, predict:*, write:NAME or write:*; repeatable",
    )
    add("--json", action="store_true", help="list: print JSON")
    parser.epilog = "example:\n  isoform key add phone --scope write:alice\n  isoform key revoke 0123456789abcdef"


def run_key(arguments: argparse.Namespace) -> None:
    """Run ``isoform key`` and print the result to stdout as JSON, a list as a table.

    Raises:
        UsageError: If an argument is missing or invalid.
        StoreError: If the store cannot be opened.
    """
    url = store_url(arguments.store)
    if url is None:
        raise UsageError("--store is none, but API keys are kept in a store; give a file or a database URL")
    if (arguments.name is None) != (arguments.what == "list"):
        raise UsageError("expected isoform key add NAME, isoform key revoke ID or isoform key list")
    # This creates a missing store, so that keys can be made before the server's first start.
    with Store(url) as store:
        keys = Keys(store)
        if arguments.what == "add":
            print(json.dumps({"key": keys.add(arguments.name, arguments.scope)}))
            # On stderr, so that stdout stays JSON for scripts.
            print("the key is shown only once; send it as: Authorization: Bearer KEY", file=sys.stderr)
        elif arguments.what == "revoke":
            # By id, because several keys may have the same name.
            if not keys.revoke(arguments.name):
                raise UsageError(f"no active key has the id {arguments.name!r}; 'isoform key list' shows the ids")
            print(json.dumps({"revoked": arguments.name}))
        elif arguments.json:
            print(json.dumps([_line(key) for key in keys.listed()], indent=2))
        else:
            print("\n".join(_table(keys.listed())))


def _table(keys: Sequence[Key]) -> list[str]:
    if not keys:
        return ["no keys; 'isoform key add NAME --scope SCOPE' makes one"]
    rows = [
        (key.id, key.name, ", ".join(sorted(key.scopes)), moment(key.created)[:10], moment(key.revoked)[:10] if key.revoked is not None else "")
        for key in keys
    ]  # fmt: skip
    return aligned(("id", "name", "scopes", "created", "revoked"), rows, left=range(5))


def _line(key: Key) -> dict[str, object]:
    return {
        "id": key.id, "name": key.name, "scopes": sorted(key.scopes), "created": moment(key.created),
        "revoked": moment(key.revoked) if key.revoked is not None else None,
    }  # fmt: skip
