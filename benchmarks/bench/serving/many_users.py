"""A server with thousands of users: their signatures in its store, and what a random one costs beside always the same one."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import sqlalchemy as sql

from bench.harness import Figures
from bench.people import users
from bench.serving.http_servers import Server
from bench.serving.load import Block, Load, median
from bench.serving.wire import wire
from isoform.runtime import Signature
from isoform.runtime.arrays import Array
from isoform.runtime.engines.onnx.plans.disk import cached_plan
from isoform.runtime.engines.onnx.plans.plan import subject_of
from isoform.runtime.formats.bundle import Bundle
from isoform.server.store.schema import revisions
from isoform.server.store.store import Store, clock

__all__ = ["bytes_of_a_user", "fill_store", "free_bytes", "many_users", "names"]

CHUNK = 250
"""Users who have their first turn before the clock is looked at again."""


def names(count: int) -> list[str]:
    """Users' names, all equally long."""
    return [f"user{number:06}" for number in range(count)]


def bytes_of_a_user(bundle: Bundle) -> int:
    """What a hot user holds in memory: folded weights, 4 bytes each."""
    return 4 * len(
        cached_plan(
            subject_of(bundle.require_compiled().graphs["portable"], bundle.network.graph("portable"))
        ).layout.gather
    )


def free_bytes() -> int:
    """Memory that is free, or would be if it were asked for; Linux."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def fill_store(path: Path, bundle: Bundle, count: int) -> None:
    """Write what ``Store.append`` would, of all users in one transaction: one wait for the disk, not ten thousand."""
    with Store(path) as store, store.writing() as connection:
        moment = clock(connection)
        rows = [
            {
                "task": "base", "user": name, "revision": 1, "digest": bytes.fromhex(Signature.decode(data).digest), "parent": None,
                "action": "put", "actor": "benchmark", "created": moment, "data": data,
            }
            for name, data in zip(names(count), users(bundle, count, "mixture"), strict=True)
        ]  # fmt: skip
        connection.execute(sql.insert(revisions), rows)


def many_users(
    load: Load, server: Server, samples: Array, *, count: int, seconds: float, rounds: int, touch_seconds: float
) -> Figures:
    """Answers per second with one user, and with a random one each time; in turn, 8 connections, bytes.

    First every user once, which is what cold ones cost: read from the store, checked, folded into fresh memory. Those who had no turn
    within ``touch_seconds`` are left out.
    """
    request, everybody, began = wire("isoform", "binary", samples, named=True), names(count), time.perf_counter()
    touched, first = 0, list[Block]()
    while touched < count and time.perf_counter() - began < touch_seconds:
        part = everybody[touched : touched + CHUNK]
        first.append(load(server, "binary", request, connections=8, users=part, each=True))
        touched += len(part)
    single, several = list[float](), list[float]()
    for _ in range(rounds):
        single.append(load(server, "binary", request, connections=8, seconds=seconds, users=everybody[:1]).rps)
        several.append(load(server, "binary", request, connections=8, seconds=seconds, users=everybody[:touched]).rps)
    one, cold = float(np.median(single)), median(first).rps
    return {
        "single_user_rps": one, "random_users_rps": float(np.median(several)), "first_touch_rps": cold,
        "random_users_over_single_user": float(np.median(np.array(several) / np.array(single))),
        "first_touch_over_single_user": cold / one, "users_at_random": float(touched), "users_in_store": float(count),
    }  # fmt: skip
