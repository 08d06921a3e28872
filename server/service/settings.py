"""Settings of a server, with their ranges checked in one place."""

from __future__ import annotations

import dataclasses
from typing import Literal

from isoform.runtime.errors import UsageError
from isoform.server.exchange.address import Network

__all__ = ["JOBS", "Settings"]

JOBS = 32
"""Longest queue of jobs in one process; more get 503."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits and behaviour of a server.

    Raises:
        UsageError: If a value is out of range.
    """

    max_body_bytes: int = 16 << 20
    """Largest request body, before and after decompression; a larger one gets 413."""
    max_samples: int = 0
    """Most samples of one request; more get 413. 0: as many as fit into the largest body as FP32."""
    max_answer_bytes: int = 16 << 20
    """Largest answer to a prediction, before compression; a request for a larger one gets 413. The logits of a job may take half as much."""
    memory_bytes: int = 128 << 20
    """Memory budget of one process for long requests and samples of jobs. A request that exceeds it alone gets 413, beside others 503."""
    unknown: Literal["refuse", "base"] = "refuse"
    """Answer for a user without a signature: 404, or the task's base signature, named as revision 0 in the answer."""
    page: int = 100
    """Default number of entries on a page of a list, from 1 to 1,000."""
    decoded_bytes: int = 64 << 20
    """Size of the cache of decoded signature files, in bytes of the files."""
    long_requests: int = 2
    """Requests of one process that may hold over 4 MiB at a time; more get 503, so that threads are left for short ones."""

    queue_requests: int = 256
    """Longest queue of requests in one process; more get 503."""
    rate_per_second: float = 0.0
    """Rate limit of one key, or one address without a valid key, in one process, in requests per second; more get 429. 0: no limit."""
    trusted_proxies: tuple[Network, ...] = ()
    """Networks of proxies whose ``X-Forwarded-For`` is trusted."""
    deadline_seconds: float = 0.0
    """Longest wait of a prediction in the queue; after that 503. A request may set a shorter one (``timeout``), and gets 408. 0: no limit."""
    batch_samples: int = 1
    """Maximum batch size, in samples of concurrent requests for the same network. 1: no batching."""
    batch_delay_seconds: float = 0.0
    """How long a partial batch waits for more requests."""
    waiters: int = 2
    """Requests of one process that may wait for a job to end (``Prefer: wait``); others are answered at once."""
    jobs_per_caller: int = 8
    """Most queued jobs of one caller, and for one user, in one process, of ``JOBS`` in all; more get 429."""
    log: Literal["all", "errors", "none"] = "errors"
    """Requests to log: all, those that failed or changed something, or none."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.max_body_bytes < 1:
            raise UsageError(f"max_body_bytes is {self.max_body_bytes}, but 1 or more was expected")
        if self.unknown not in ("refuse", "base"):
            raise UsageError(f"unknown is {self.unknown!r}, but 'refuse' or 'base' was expected")
        if not 1 <= self.page <= 1000:
            raise UsageError(f"page is {self.page}, but 1 to 1000 was expected")
        for name, least, most in (
            ("queue_requests", 1, 1 << 20), ("rate_per_second", 0, 1e6), ("deadline_seconds", 0, 3600), ("batch_samples", 1, 4096),
            ("batch_delay_seconds", 0, 1), ("waiters", 0, 1024), ("long_requests", 1, 1024), ("max_samples", 0, 1 << 31),
            ("max_answer_bytes", 1, 1 << 40), ("memory_bytes", 1 << 20, 1 << 40), ("jobs_per_caller", 1, JOBS),
        ):  # fmt: skip
            if not least <= getattr(self, name) <= most:
                raise UsageError(
                    f"{name} is {getattr(self, name)!r}, but a value from {least} to {most:g} was expected"
                )
        if self.log not in ("all", "errors", "none"):
            raise UsageError(f"log is {self.log!r}, but 'all', 'errors' or 'none' was expected")
        if self.decoded_bytes < 0:
            raise UsageError(f"decoded_bytes is {self.decoded_bytes}, but 0 or more was expected")
