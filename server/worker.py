"""Learning, beside the requests: one job after another, in a thread of the process that took it in.

A job begins from the revision that was newest when it was taken in, and appends to that one only: if another revision came in
between, what was learned is not written over it, and the job says so. Predictions go on meanwhile.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from isoform.runtime.errors import ConflictError, IsoformError
from isoform.runtime.signature import Signature
from isoform.server.problems import BusyError
from isoform.server.store.ledger import Job, Ledger
from isoform.server.store.store import Store

__all__ = ["Worker"]

log = logging.getLogger("isoform.server")

WAITING = 32
"""Jobs that may wait in one process; more are refused with 503."""
GIVE_UP_SECONDS = 3.0
TOUCH_SECONDS = 0.5
"""So often is the database told how far a job is, and asked whether it was cancelled."""

Progress = Callable[[int, int], None]
"""Called with steps done and steps at most; raises where the job is to stop."""
Learn = Callable[[Progress], tuple[Signature, str]]
"""Makes a signature, and says in a line what happened."""


class _CancelledError(Exception):
    """Somebody cancelled the job."""


class _StoppedError(Exception):
    """The server stops, and the job took too long for it."""


class Worker:
    """One thread that learns. Started when the first job comes."""

    def __init__(self, store: Store) -> None:
        self._store, self._ledger = store, Ledger(store)
        self._jobs = queue.Queue[tuple[Job, int, str | None, Learn]](WAITING)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing, self._running, self._given_up = threading.Event(), threading.Event(), threading.Event()

    def submit(
        self, task: str, user: str, *, action: str, actor: str, expect: int, start: str | None, learn: Learn
    ) -> Job:
        """Take a job in.

        Args:
            task: The task.
            user: Whose signature.
            action: ``personalize`` or ``adapt``.
            actor: Whose key it was.
            expect: The revision that it begins from; 0 for none.
            start: Digest of the signature that it begins from.
            learn: What to do.

        Returns:
            The job, as it was written down.

        Raises:
            BusyError: If too many wait already.
        """
        with self._lock:  # nobody else puts a job, so there is room until this one has its place
            if self._jobs.full():
                raise BusyError(f"{WAITING} jobs wait in this process; try again later")
            job = self._ledger.add(task, user, action=action, actor=actor)
            self._jobs.put_nowait((job, expect, start, learn))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="isoform-learn", daemon=True)
                self._thread.start()
        return job

    def close(self, *, seconds: float) -> None:
        """Begin no other job, and wait so long at most for the one that is running; jobs that were not begun have failed."""
        self._closing.set()
        until = time.monotonic() + seconds
        with self._lock:
            while not self._jobs.empty():
                job, *_ = self._jobs.get_nowait()
                self._end(job, "the server stopped before it was its turn; send it again")
        while self._running.is_set() and time.monotonic() < until:
            time.sleep(0.02)
        self._given_up.set()  # the next step of the job notices
        until = time.monotonic() + GIVE_UP_SECONDS
        while self._running.is_set() and time.monotonic() < until:
            time.sleep(0.02)

    def _work(self) -> None:
        while True:
            entry = self._jobs.get()
            self._running.set()
            if self._closing.is_set():
                self._end(entry[0], "the server stopped before it was its turn; send it again")
            else:
                self._one(*entry)
            self._running.clear()

    def _one(self, job: Job, expect: int, start: str | None, learn: Learn) -> None:
        told = 0.0

        def progress(step: int, steps: int) -> None:
            nonlocal told
            if self._given_up.is_set():
                raise _StoppedError
            if time.monotonic() - told >= TOUCH_SECONDS:
                if not self._ledger.touch(job.id, step=step, steps=steps):
                    raise _CancelledError
                told = time.monotonic()

        try:
            progress(0, 0)
            signature, message = learn(progress)
            told = 0.0
            progress(0, 0)  # once more: what was cancelled in its last moments is not written
            if signature.digest == start:
                self._ledger.finish(job.id, state="done", message=message, revision=expect)
                return
            made = self._store.append(
                job.task,
                job.user,
                digest=signature.digest,
                data=signature.encode(),
                action=job.action,
                actor=job.actor,
                expect=expect,
            )
            self._ledger.finish(job.id, state="done", message=message, revision=made.revision)
        except _CancelledError:
            return
        except _StoppedError:
            self._end(job, "the server stopped before it was done; send it again")
        except ConflictError:
            self._end(
                job,
                f"{job.task}/{job.user} has another revision than {expect} by now; what was learned is not written over it",
            )
        except IsoformError as problem:
            self._end(job, str(problem))
        except Exception:
            log.exception("a job failed")
            self._end(job, "an error inside the server; its log has the details")

    def _end(self, job: Job, message: str) -> None:
        try:
            self._ledger.finish(job.id, state="failed", message=message)
        except IsoformError as problem:  # the database is away; whoever asks will find the job lost
            log.error("%s", problem)
