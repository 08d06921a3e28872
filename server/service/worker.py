"""The background worker for jobs: one job at a time, in a thread of the process that accepted it, while predictions continue.

A job starts from the revision that was newest when it was submitted, and its result is appended only if that is still the newest.
Otherwise the job fails with a message, and the newer revision stays.

The learning thread makes no queries while it learns. A second thread reports progress to the database and learns of cancellations.
So an unreachable database delays progress, and the end of a job for up to ``PATIENCE_SECONDS``, but fails no job.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable

from isoform.runtime.errors import ConflictError, IsoformError, StoreError
from isoform.runtime.formats.signature import Signature
from isoform.server.exchange.problems import BusyError
from isoform.server.service.settings import JOBS
from isoform.server.service.turns import Turns
from isoform.server.store.ledger import Job, Ledger
from isoform.server.store.store import Store

__all__ = ["Worker"]

log = logging.getLogger("isoform.server")

GIVE_UP_SECONDS = 3.0
"""How long ``close`` waits for a job that was told to stop."""
ALIVE_SECONDS = 5.0
"""Interval of heartbeats for queued jobs, which also ask whether they were cancelled."""
TELL_SECONDS = 0.5
"""Interval of heartbeats for the running job, with its progress."""
PATIENCE_SECONDS = 300.0
"""How long writing the end of a job is retried while the database is down."""
PAUSE_SECONDS = 5.0
"""Longest pause between retries. The first is a fiftieth of it, and each is twice the one before."""

Progress = Callable[[int, int], None]
"""Callback with the steps done and the maximum number of steps; raises to stop the job."""
Learn = Callable[[Progress], tuple[Signature, str]]
"""Function that learns a signature and describes the result in one line."""


class _CancelledError(Exception):
    """The job was cancelled, or its user was deleted."""


class _StoppedError(Exception):
    """The server is shutting down, and the job did not finish in time."""


@dataclasses.dataclass(eq=False)
class _Entry:
    """An unfinished job of this process."""

    job: Job
    begun: tuple[int, str]
    learn: Learn | None
    """Closure that holds the samples; None once they are no longer needed."""
    running: bool = False
    gone: bool = False
    """Whether the job is closed in the database: cancelled or lost."""
    step: int = 0
    steps: int = 0


class Worker:
    """Runs jobs in two threads, one that learns and one that reports to the database. They start with the first job.

    Args:
        store: The store of revisions and jobs.
        share: Most queued jobs of one caller, and for one user; more get 429.
    """

    def __init__(self, store: Store, *, share: int = JOBS) -> None:
        self._ledger = Ledger(store)
        self._turns = Turns[_Entry](places=JOBS, share=share)
        self._open, self._coming = dict[str, _Entry](), 0
        self._idle, self._news, self._talking = threading.Condition(), threading.Event(), threading.Lock()
        self._started = set[str]()
        self._closing, self._given_up = threading.Event(), threading.Event()

    def submit(
        self, task: str, user: str, *, action: str, actor: str, caller: str, begun: tuple[int, str], learn: Learn
    ) -> Job:
        """Queue a job.

        Args:
            task: Name of the task.
            user: User whose signature is learned.
            action: ``personalize`` or ``adapt``.
            actor: Name of the caller, recorded with the revision.
            caller: Unique id of the caller.
            begun: Number and digest of the revision from which the job starts; 0 and the base signature's digest if there is none.
            learn: The function that learns.

        Returns:
            The job, as stored.

        Raises:
            BusyError: If the queue is full, the server is shutting down, or no thread can be started.
            TooManyError: If the caller or the user has too many queued jobs.
            ConflictError: If another revision has become the newest.
        """
        with self._idle:
            if self._closing.is_set():
                raise BusyError("the server is shutting down; send the request again")
            self._start()
            self._coming += 1  # so that ``close`` waits for a job that is being stored but is not in ``_open`` yet
        try:
            # A place first, and the row second: a full queue must not leave a row that no process works on.
            place = self._turns.reserve(caller, (task, user))
            try:
                job = self._ledger.add(task, user, action=action, actor=actor, expect=begun[0])
            except BaseException:
                self._turns.release(place)
                raise
            entry = _Entry(job, begun, learn)
            with self._idle:
                self._open[job.id] = entry
                self._idle.notify_all()
            self._turns.put(place, entry)
        finally:
            with self._idle:
                self._coming -= 1
                self._idle.notify_all()
        return job

    def look(self) -> None:
        """Check now, and not at the next heartbeat, which jobs were cancelled."""
        self._news.set()

    def close(self, *, seconds: float) -> None:
        """Start no more jobs and wait up to that long for the running one; queued jobs fail."""
        with self._idle:
            self._closing.set()
            if not self._idle.wait_for(self._is_idle, seconds):
                self._given_up.set()  # the job notices at its next step
                self._idle.wait_for(self._is_idle, GIVE_UP_SECONDS)
        if self._talking.acquire(timeout=GIVE_UP_SECONDS):  # no heartbeat is in flight, so the store may be closed
            self._talking.release()

    def _is_idle(self) -> bool:
        return not self._open and not self._coming

    def _start(self) -> None:
        for name, work in (("isoform-learn", self._work), ("isoform-jobs", self._talk)):
            if name not in self._started:
                try:
                    threading.Thread(target=work, name=name, daemon=True).start()
                except RuntimeError as problem:  # the system's limit of threads
                    raise BusyError(f"cannot start a thread for jobs: {problem}; try again later") from None
                self._started.add(name)

    def _work(self) -> None:
        while True:
            entry = self._turns.take()
            try:
                self._one(entry)
            except Exception:  # the thread must survive, for the jobs that are queued
                log.exception("the end of a job could not be written; the job will be reported as lost")

    def _one(self, entry: _Entry) -> None:
        try:
            if self._closing.is_set():
                self._fail(entry, "the server stopped before the job started; send it again")
            elif not entry.gone:
                entry.running = True
                self._news.set()
                self._learn(entry)
        finally:
            self._forget(entry)

    def _learn(self, entry: _Entry) -> None:
        def progress(step: int, steps: int) -> None:
            entry.step, entry.steps = step, steps
            if self._given_up.is_set():
                raise _StoppedError
            if entry.gone:
                raise _CancelledError

        try:
            learn, entry.learn = entry.learn, None
            if learn is None:  # cancelled by the other thread a moment ago
                return
            signature, message = learn(progress)
            del learn  # frees the samples before the result is written, which may take minutes
            data = signature.encode()
            self._written(
                lambda: self._ledger.complete(
                    entry.job,
                    begun=entry.begun,
                    digest=signature.digest,
                    data=data,
                    message=message,
                    steps=entry.step,
                )
            )
        except _CancelledError:
            return
        except _StoppedError:
            self._fail(entry, "the server stopped before the job was done; send it again")
        except ConflictError:
            whose = f"{entry.job.task}/{entry.job.user}"
            self._fail(
                entry,
                f"{whose} has changed since revision {entry.begun[0]}, from which the job started; its result was discarded",
            )
        except IsoformError as problem:
            self._fail(entry, str(problem))
        except MemoryError:
            log.error("out of memory in a job")
            self._fail(entry, "the server ran out of memory for this job; send fewer samples, or try again")
        except Exception:
            log.exception("a job failed")
            self._fail(entry, "internal server error; the server's log has the details")

    def _fail(self, entry: _Entry, message: str) -> None:
        entry.learn = None
        self._written(
            lambda: self._ledger.fail(entry.job.id, message=message, step=entry.step, steps=entry.steps), what=message
        )

    def _written(self, write: Callable[[], None], *, what: str = "") -> None:
        """Write the end of a job, with retries while the database is down. ``write`` must be idempotent."""
        until, pause = time.monotonic() + PATIENCE_SECONDS, PAUSE_SECONDS / 50
        while True:
            try:
                return write()
            except StoreError as problem:
                log.error("cannot write the end of a job yet%s: %s", f" ({what})" if what else "", problem)
                # After the attempt, so that the end is written at least once also while the server stops.
                if self._given_up.is_set() or time.monotonic() > until:
                    log.error("gave up writing the end of a job; it will be reported as lost")
                    return
            self._given_up.wait(pause)
            pause = min(2 * pause, PAUSE_SECONDS)

    def _talk(self) -> None:
        told, pause = 0.0, TELL_SECONDS
        while True:
            with self._idle:
                self._idle.wait_for(lambda: self._open)
            asked = self._news.wait(pause)
            self._news.clear()
            everybody = asked or time.monotonic() - told >= ALIVE_SECONDS
            try:
                self._tell(everybody)
            except Exception as problem:  # usually the database is down: report again after a pause
                pause = min(2 * pause, PAUSE_SECONDS)
                log.error("%s", problem, exc_info=not isinstance(problem, IsoformError))
            else:
                told, pause = time.monotonic() if everybody else told, TELL_SECONDS

    def _tell(self, everybody: bool) -> None:
        """Send a heartbeat for the running job, or for all, and drop those that were cancelled or lost."""
        entries, going = self._told(everybody)
        for entry in entries:
            entry.gone = entry.job.id not in going
        self._turns.drop(lambda entry: entry.gone)
        for entry in entries:
            if entry.gone and not entry.running:
                self._forget(entry)

    def _told(self, everybody: bool) -> tuple[list[_Entry], set[str]]:
        """Send a heartbeat for the running job, or for all. Returns those jobs, and the ids of those that are still open."""
        with self._talking:
            with self._idle:
                entries = [entry for entry in self._open.values() if everybody or entry.running]
            if not entries:
                return [], set()
            return entries, self._ledger.tell(
                {entry.job.id: (entry.step, entry.steps) if entry.running else None for entry in entries}
            )

    def _forget(self, entry: _Entry) -> None:
        entry.learn = None
        with self._idle:
            self._open.pop(entry.job.id, None)
            self._idle.notify_all()
