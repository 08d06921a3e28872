"""What happened that is no revision can be read over HTTP, by administrators."""

from isoform.server.access.keys import Keys
from isoform.server.app import create_app

HERE = "/v1/models/plain/signatures"


def test_events(runtime, store) -> None:
    """Deleted signatures, unloaded tasks, keys made and revoked: who, what, when, newest first, page by page."""
    keys = Keys(store)
    admin, phone = keys.add("boss", ["admin"]), keys.add("phone", ["write:alice"])
    client = create_app(runtime, store=store, keys=keys).test_client()
    boss, alice = ({"Authorization": f"Bearer {key}"} for key in (admin, phone))
    client.put(f"{HERE}/alice", data=runtime.signature("plain").encode(), headers=alice)
    client.delete(f"{HERE}/alice", headers=alice)
    client.post("/v2/repository/models/edges/unload", headers=boss)
    client.post("/v2/repository/models/edges/load", headers=boss)
    keys.revoke(phone.split("_")[1])
    answer = client.get("/v1/events", headers=boss).json
    assert answer["next"] is None
    told = [(event["actor"], event["action"].split()[0], event["task"], event["signature"], event["revision"]) for event in answer["events"]]  # fmt: skip
    assert told == [
        ("", "revoke", None, None, None), ("boss", "load", "edges", None, None), ("boss", "unload", "edges", None, None),
        ("phone", "delete", "plain", "alice", 1), ("", "key", None, None, None), ("", "key", None, None, None),
    ]  # fmt: skip
    # Nobody made the first key: the command line has no caller, and each event names its key.
    assert [event["action"] for event in answer["events"] if not event["actor"]] == [
        f"{verb} {key.split('_')[1]}" for verb, key in (("revoke", phone), ("key", phone), ("key", admin))
    ]
    assert admin not in str(answer)
    pages, before = [], ""
    for _ in range(3):
        page = client.get(f"/v1/events?limit=2{before}", headers=boss).json
        pages += page["events"]
        before = f"&before={page['next']}"
    assert page["next"] is None
    assert pages == answer["events"]


def test_only_for_administrators(runtime, store) -> None:
    """Nobody else reads them, and a page of a strange length is refused."""
    keys = Keys(store)
    headers = {"Authorization": f"Bearer {keys.add('phone', ['write:*', 'metrics'])}"}
    client = create_app(runtime, store=store, keys=keys).test_client()
    assert client.get("/v1/events", headers=headers).status_code == 403
    boss = {"Authorization": f"Bearer {keys.add('boss', ['admin'])}"}
    answer = client.get("/v1/events?limit=0", headers=boss)
    assert (answer.status_code, answer.json["error"].split(",")[0]) == (400, "limit is '0'")
