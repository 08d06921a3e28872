"""Learning, beside the requests: one job after another, in a thread of the process that took it in.

A job begins from the revision that was newest when it was taken in, and appends to that one only: if another revision came in
between, what was learned is not written over it, and the job says so. Predictions go on meanwhile.

The thread that learns never asks the database; another one tells it how far jobs are, and hears which were cancelled. So a database
that is away delays what is told, and the end of a job for up to ``PATIENCE_SECONDS``, and fails nothing.
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
ALIVE_SECONDS = 5.0
"""How often the database is told that jobs that wait are not lost, and asked whether they were cancelled."""
TELL_SECONDS = 0.5
"""The same for the job that is running, with its progress."""
PATIENCE_SECONDS = 300.0
"""How long the end of a job is tried to be written while the database is away."""
PAUSE_SECONDS = 5.0
"""Longest pause between two tries; the first is a fiftieth of it, and each is twice the one before."""

Progress = Callable[[int, int], None]
"""Called with steps done and steps at most; raises where the job is to stop."""
Learn = Callable[[Progress], tuple[Signature, str]]
"""Makes a signature, and says in a line what happened."""


class _CancelledError(Exception):
    """Somebody cancelled the job, or deleted its user."""


class _StoppedError(Exception):
    """The server stops, and the job took too long for it."""


@dataclasses.dataclass(eq=False)
class _Entry:
    """A job of this process that has not ended."""

    job: Job
    begun: tuple[int, str]
    learn: Learn | None
    """Holds the samples; None once they are no longer needed."""
    running: bool = False
    gone: bool = False
    """Whether the database says that it is open no longer."""
    step: int = 0
    steps: int = 0


class Worker:
    """Two threads, one that learns and one that talks to the database meanwhile. Started when the first job comes.

    Args:
        store: Where revisions and jobs are.
        share: Jobs that may wait for one caller, and for one user; more are refused with 429.
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
        """Take a job in.

        Args:
            task: The task.
            user: Whose signature.
            action: ``personalize`` or ``adapt``.
            actor: The name that the revision will have of whose key it was.
            caller: What tells callers apart.
            begun: Number and digest of the revision that it begins from; 0 and the base signature's digest if there is none.
            learn: What to do.

        Returns:
            The job, as it was written down.

        Raises:
            BusyError: If too many wait already, the server is about to stop, or there is no thread for jobs.
            TooManyError: If too many of that caller, or for that user, wait already.
            ConflictError: If another revision is newest by now.
        """
        with self._idle:
            if self._closing.is_set():
                raise BusyError("the server is about to stop; send it again")
            self._start()
            self._coming += 1
        try:
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
        """Ask the database at once which jobs were cancelled: some may have been."""
        self._news.set()

    def close(self, *, seconds: float) -> None:
        """Begin no other job, and wait so long at most for the one that is running; jobs that were not begun have failed."""
        with self._idle:
            self._closing.set()
            if not self._idle.wait_for(self._is_idle, seconds):
                self._given_up.set()  # the next step of the job notices
                self._idle.wait_for(self._is_idle, GIVE_UP_SECONDS)
        if self._talking.acquire(timeout=GIVE_UP_SECONDS):  # nothing is told any more, so the store may be closed
            self._talking.release()

    def _is_idle(self) -> bool:
        return not self._open and not self._coming

    def _start(self) -> None:
        for name, work in (("isoform-learn", self._work), ("isoform-jobs", self._talk)):
            if name not in self._started:
                try:
                    threading.Thread(target=work, name=name, daemon=True).start()
                except RuntimeError as problem:  # the system has no more
                    raise BusyError(f"there is no thread for jobs: {problem}; try again later") from None
                self._started.add(name)

    def _work(self) -> None:
        while True:
            entry = self._turns.take()
            try:
                self._one(entry)
            except Exception:  # jobs behind it have their turn
                log.exception("the end of a job is not written; who asks will find it lost")

    def _one(self, entry: _Entry) -> None:
        try:
            if self._closing.is_set():
                self._fail(entry, "the server stopped before it was its turn; send it again")
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
            if learn is None:  # cancelled just now
                return
            signature, message = learn(progress)
            del learn  # and the samples with it
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
            self._fail(entry, "the server stopped before it was done; send it again")
        except ConflictError:
            whose = f"{entry.job.task}/{entry.job.user}"
            self._fail(
                entry,
                f"{whose} has another revision than {entry.begun[0]} by now; what was learned is not written over it",
            )
        except IsoformError as problem:
            self._fail(entry, str(problem))
        except MemoryError:
            log.error("a job found too little memory")
            self._fail(entry, "there was not enough memory for the job; send fewer samples, or try again")
        except Exception:
            log.exception("a job failed")
            self._fail(entry, "internal server error; the server's log has the details")

    def _fail(self, entry: _Entry, message: str) -> None:
        entry.learn = None
        self._written(
            lambda: self._ledger.fail(entry.job.id, message=message, step=entry.step, steps=entry.steps), what=message
        )

    def _written(self, write: Callable[[], None], *, what: str = "") -> None:
        """Write the end of a job, again and again while the database is away. Writing it twice is writing it once."""
        until, pause = time.monotonic() + PATIENCE_SECONDS, PAUSE_SECONDS / 50
        while True:
            try:
                return write()
            except StoreError as problem:
                log.error("the end of a job is not written yet%s: %s", f" ({what})" if what else "", problem)
                if self._given_up.is_set() or time.monotonic() > until:
                    log.error("it is given up; who asks will find the job lost")
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
            except Exception as problem:  # mostly the database is away; it is told again
                pause = min(2 * pause, PAUSE_SECONDS)
                log.error("%s", problem, exc_info=not isinstance(problem, IsoformError))
            else:
                told, pause = time.monotonic() if everybody else told, TELL_SECONDS

    def _tell(self, everybody: bool) -> None:
        """Tell of the job that is running, or of all, and let go of those that go on no longer."""
        entries, going = self._told(everybody)
        for entry in entries:
            entry.gone = entry.job.id not in going
        self._turns.drop(lambda entry: entry.gone)
        for entry in entries:
            if entry.gone and not entry.running:
                self._forget(entry)

    def _told(self, everybody: bool) -> tuple[list[_Entry], set[str]]:
        """Tell of the job that is running, or of all; returns which those were, and the ids of those that go on."""
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
