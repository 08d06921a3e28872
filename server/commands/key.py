"""``isoform key``: the server's API keys, made, listed and revoked where its store is."""

from __future__ import annotations

import argparse
import json
import sys

from isoform.runtime.errors import UsageError
from isoform.server.access.keys import Key, Keys
from isoform.server.opening import store_url
from isoform.server.store.store import Store, moment

__all__ = ["add_arguments_key", "run_key"]


def add_arguments_key(parser: argparse.ArgumentParser) -> None:
    """Declare ``isoform key``'s arguments."""
    add = parser.add_argument
    add("what", choices=("add", "list", "revoke"), help="what to do")
    add("name", nargs="?", help="add: what revisions will say of who made them; revoke: the key's id")
    add("--store", default="isoform.db", help="as for isoform serve (default: isoform.db)")
    add(
        "--scope",
        action="append",
        default=[],
        metavar="SCOPE",
        help="admin, metrics, predict, predict:NAME, predict:*, write:NAME or write:*; several are fine",
    )
    parser.epilog = "example:\n  isoform key add phone --scope write:alice\n  isoform key revoke 0123456789abcdef"


def run_key(arguments: argparse.Namespace) -> None:
    """Do it; JSON on stdout.

    Raises:
        UsageError: If an argument is missing or makes no sense.
        StoreError: If the store cannot be opened.
    """
    url = store_url(arguments.store)
    if url is None:
        raise UsageError("--store is none, but keys are kept in a store")
    if (arguments.name is None) != (arguments.what == "list"):
        raise UsageError("isoform key add NAME, isoform key revoke ID or isoform key list was expected")
    with Store(url) as store:
        keys = Keys(store)
        if arguments.what == "add":
            print(json.dumps({"key": keys.add(arguments.name, arguments.scope)}))
            print("this is the only time that the key is shown; send it as: Authorization: Bearer KEY", file=sys.stderr)
        elif arguments.what == "revoke":
            if not keys.revoke(arguments.name):
                raise UsageError(
                    f"there is no key {arguments.name!r} that is not revoked; 'isoform key list' has the ids"
                )
            print(json.dumps({"revoked": arguments.name}))
        else:
            print(json.dumps([_line(key) for key in keys.listed()], indent=2))


def _line(key: Key) -> dict[str, object]:
    return {
        "id": key.id, "name": key.name, "scopes": sorted(key.scopes), "created": moment(key.created),
        "revoked": moment(key.revoked) if key.revoked is not None else None,
    }  # fmt: skip
