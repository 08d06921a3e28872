"""What can be set about a server, checked, in one place."""

from __future__ import annotations

import dataclasses
from typing import Literal

from isoform.runtime.errors import UsageError
from isoform.server.exchange.address import Network

__all__ = ["JOBS", "Settings"]

JOBS = 32
"""Jobs that may wait in one process; more get 503."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How a server behaves.

    Raises:
        UsageError: If a value is out of its range.
    """

    max_body_bytes: int = 16 << 20
    """Longest request body that is read, compressed or not; a longer one gets 413."""
    max_samples: int = 0
    """Samples of one request; more get 413. 0: as many as the longest body has as FP32."""
    max_answer_bytes: int = 16 << 20
    """Longest answer to a prediction, before it is compressed; a request for a longer one gets 413. A job's logits may take half as much."""
    memory_bytes: int = 128 << 20
    """What long requests of one process, and samples of its jobs, may hold in memory together. A request that would hold more gets 413; one
    that must wait for others gets 503."""
    unknown: Literal["refuse", "base"] = "refuse"
    """What a user who has no signature gets: 404, or the task's base signature, named as such in the answer."""
    page: int = 100
    """Entries of a list where the request does not say, from 1 to 1,000."""
    decoded_bytes: int = 64 << 20
    """How many bytes of users' signature files may stay decoded in memory."""
    long_requests: int = 2
    """Requests that may hold over 4 MiB at the same time, in one process; more get 503, so that threads are left for short ones."""

    queue_requests: int = 256
    """Requests that may wait for a thread in one process; more get 503."""
    rate_per_second: float = 0.0
    """Requests that one key, or one address without a valid key, may send to one process, on average; more get 429. 0: any number."""
    trusted_proxies: tuple[Network, ...] = ()
    """Addresses of proxies whose ``X-Forwarded-For`` says which address a client has."""
    deadline_seconds: float = 0.0
    """A prediction that has waited longer is not made: 503. A request may say less itself (``timeout``), and gets 408. 0: no limit."""
    batch_samples: int = 1
    """At most so many samples of concurrent requests for the same network are run together. 1: each by itself."""
    batch_delay_seconds: float = 0.0
    """How long a batch that is not full waits for more."""
    waiters: int = 2
    """Requests of one process that may wait for a job to end (``Prefer: wait``); others are answered at once."""
    jobs_per_caller: int = 8
    """Jobs that may wait in one process for one caller, and for one user, of ``JOBS`` in all; more get 429."""
    log: Literal["all", "errors", "none"] = "errors"
    """Which requests are written down: all, those that were refused or failed and those that change something, or none."""

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
                raise UsageError(f"{name} is {getattr(self, name)!r}, but {least} to {most:g} was expected")
        if self.log not in ("all", "errors", "none"):
            raise UsageError(f"log is {self.log!r}, but 'all', 'errors' or 'none' was expected")
        if self.decoded_bytes < 0:
            raise UsageError(f"decoded_bytes is {self.decoded_bytes}, but 0 or more was expected")
