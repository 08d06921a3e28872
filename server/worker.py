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
ALIVE_SECONDS = 5.0
"""So often is the database told that jobs that wait are not lost."""
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
    """Two threads, one that learns and one that says which jobs are not lost. Started when the first job comes."""

    def __init__(self, store: Store) -> None:
        self._store, self._ledger = store, Ledger(store)
        self._jobs = queue.Queue[tuple[Job, int, str | None, Learn]](WAITING)
        self._open = set[str]()
        self._lock, self._idle = threading.Lock(), threading.Condition()
        self._started, self._closing, self._given_up = False, threading.Event(), threading.Event()

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
            BusyError: If too many wait already, or the server is about to stop.
        """
        with self._lock:  # nobody else puts a job, so there is room until this one has its place
            if self._closing.is_set():
                raise BusyError("the server is about to stop; send it again")
            if self._jobs.full():
                raise BusyError(f"{WAITING} jobs wait in this process; try again later")
            job = self._ledger.add(task, user, action=action, actor=actor)
            with self._idle:
                self._open.add(job.id)
            self._jobs.put_nowait((job, expect, start, learn))
            if not self._started:
                self._started = True
                for name, work in (("isoform-learn", self._work), ("isoform-jobs", self._keep_alive)):
                    threading.Thread(target=work, name=name, daemon=True).start()
        return job

    def close(self, *, seconds: float) -> None:
        """Begin no other job, and wait so long at most for the one that is running; jobs that were not begun have failed."""
        with self._lock:
            self._closing.set()
        with self._idle:
            if not self._idle.wait_for(lambda: not self._open, seconds):
                self._given_up.set()  # the next step of the job notices
                self._idle.wait_for(lambda: not self._open, GIVE_UP_SECONDS)

    def _work(self) -> None:
        while True:
            job, expect, start, learn = self._jobs.get()
            if self._closing.is_set():
                self._end(job, "the server stopped before it was its turn; send it again")
            else:
                self._one(job, expect, start, learn)
            del learn  # and the samples that it has, which else stay until the next job comes
            with self._idle:
                self._open.discard(job.id)
                self._idle.notify_all()

    def _keep_alive(self) -> None:
        while True:
            time.sleep(ALIVE_SECONDS)
            with self._idle:
                found = list(self._open)
            if found:
                try:
                    self._ledger.alive(found)
                except IsoformError as problem:  # the database is away; it is said again
                    log.error("%s", problem)

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
        except MemoryError:
            log.error("a job found too little memory")
            self._end(job, "there was not enough memory for the job; send fewer samples, or try again")
        except Exception:
            log.exception("a job failed")
            self._end(job, "an error inside the server; its log has the details")

    def _end(self, job: Job, message: str) -> None:
        try:
            self._ledger.finish(job.id, state="failed", message=message)
        except IsoformError as problem:  # the database is away; whoever asks will find the job lost
            log.error("%s", problem)
