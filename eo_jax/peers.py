"""The processes of a run: they agree on when to stop, and when one fails or is lost, all end.

They share the key-value store of `jax.distributed`'s coordination service, which process 0 hosts.
JAX' preemption service would agree on a step as well, but polls between two steps, in evaluators,
would upset its count. It knows no other notice than SIGTERM, whose handler this one replaces.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

FAILED, LOST = 1, 75  # exit codes
_PERIOD = 0.5  # seconds between two looks at the store
_AGREEING = 0.05  # the same while processes agree on a step
_ROOT = "eo_jax"
_UNLIMITED_MS = 10**9  # the threads end a process that waits for one that is lost
_LAST_WORDS = 5.0  # seconds that process 0 lets others read why it ends


class Store(Protocol):
    """What is used of the coordination service's client."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None: ...

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]: ...

    def key_value_delete(self, key: str) -> None: ...

    def wait_at_barrier(self, barrier_id: str, timeout_in_ms: int) -> None: ...


class Alone:
    """A run of one process. SIGTERM, which schedulers send before they reclaim a machine, makes
    `poll` true.

    Attributes:
        stopped_by: who asked for the stop that `poll` has told of; "" before.
        lead: batches that have to be ready for `announce`.
        step: where the run is.
    """

    index, count, lead, stopped_by, step = 0, 1, 0, "", 0

    def __init__(self):
        self._requested = ""
        signal.signal(signal.SIGTERM, self._request)

    def _request(self, number: int, _: Any) -> None:
        self._requested = signal.Signals(number).name

    def poll(self) -> bool:
        """Whether the run stops here, for good."""
        self.stopped_by = self._requested
        return bool(self._requested)

    def announce(self, error: Exception) -> None:
        """Raises an error that was met ahead of the step that it belongs to."""
        raise error

    def gather(self, value: Any) -> list[Any]:
        """What each process gives, which is JSON."""
        return [value]

    def outcome(self, *, done: bool) -> int:
        """The exit code of a run that has ended or was stopped."""
        return 0 if done else 128 + signal.SIGTERM

    def at_end(self, cleanup: Callable[[], None]) -> None:
        """Nothing: an error of one process runs its own clean-up."""


class Peers:
    """A run of several processes; each has one of these, and calls `poll` and `gather` in the same
    order as the others.

    A thread looks at the store: it shows the others that this process lives, joins in agreements,
    and ends this process within `timeout` seconds of another's failure, wherever its main thread
    waits.

    Args:
        index: of this process among `count`.
        timeout: seconds without a sign of life after which a process counts as lost.

    Attributes: as of `Alone`.
    """

    lead = 2

    def __init__(self, store: Store, index: int, count: int, timeout: float):
        self.index, self.count, self._store, self._timeout = index, count, store, timeout
        self.stopped_by, self.step = "", 0
        self._polls, self._sync, self._stop = 0, None, {}
        self._lock, self._agreeing = threading.Lock(), False
        self._agreed, self._over = threading.Event(), threading.Event()
        self._ending = threading.Lock()
        self._requested, self._error = "", None
        self._gathered, self._hosts = 0, ["unknown host"] * count
        self._cleanups: list[Callable[[], None]] = []
        # A clock of periods that this process was running: one that the scheduler suspends and
        # continues, with all others, must not take them for lost.
        self._ticks, self._answered, self._beats = 0, 0, 0
        self._seen: dict[int, tuple[str, int]] = {}
        for loop in (self._look, self._watch):
            threading.Thread(target=loop, daemon=True, name="peers").start()

    # ------------------------------------------------------------------------------ the main thread

    def meet(self) -> None:
        """Waits for all processes, and learns their hosts."""
        self._hosts = self.gather(socket.gethostname())

    def obey_signals(self) -> None:
        """Lets SIGTERM and SIGINT to this process stop all."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request)

    def _request(self, number: int, _: Any) -> None:
        self._requested = signal.Signals(number).name

    def poll(self) -> bool:
        """Whether all processes stop here: at the same call in each."""
        with self._lock:
            self._polls += 1
            stops = self._sync is not None and self._polls >= self._sync
        if stops and not self.stopped_by:
            self.stopped_by = self._described(self._stop)
            if self.index == 0:
                print(f"step {self.step}: stopping, {self.stopped_by}", flush=True)
        return stops

    def announce(self, error: Exception) -> None:
        """Asks all to stop because of an error that was met ahead of its step.

        When this returns, `poll` will be true at the second call from now at the latest, since no
        process is more than one step ahead of another; `outcome` then raises the error.
        """
        self._error = error
        self._offer("stop", {"error": _one_line(error)})
        self._agreed.wait()

    def gather(self, value: Any) -> list[Any]:
        """What each process gives, which is JSON, by process."""
        self._gathered += 1
        key = f"{_ROOT}/gather/{self._gathered}"
        self._store.key_value_set(f"{key}/{self.index}", json.dumps(value))
        self._store.wait_at_barrier(key, _UNLIMITED_MS)
        found = {int(name.rpartition("/")[2]): text for name, text in self._dir(key)}
        if self.index == 0:  # all have read the one before
            self._store.key_value_delete(f"{_ROOT}/gather/{self._gathered - 1}/")
        return [json.loads(found[k]) for k in range(self.count)]

    def outcome(self, *, done: bool) -> int:
        """The exit code of a run that has ended or was stopped, and saved; raises the error that
        stopped it.
        """
        if self._error:
            raise self._error
        if "error" in self._stop and self.stopped_by:
            return LOST
        return 0 if done else 128 + signal.SIGTERM

    def at_end(self, cleanup: Callable[[], None]) -> None:
        """Calls `cleanup` when this process ends because of a failure."""
        self._cleanups.append(cleanup)

    def finish(self) -> None:
        """Waits until all processes are at their end; nothing is watched any more."""
        self._store.wait_at_barrier(f"{_ROOT}/end", _UNLIMITED_MS)
        self._over.set()

    def fail(self, error: BaseException) -> NoReturn:
        """Ends this process with an error, and then the others.

        A collective breaks when another process dies: then that one is to blame, and is waited for.
        """
        if _is_broken_collective(error):
            time.sleep(self._timeout + 5 * _PERIOD)
        self._ending.acquire()  # one thread has the last word
        cause = _one_line(error)
        if os.environ.get("EO_JAX_TRACEBACK") == "1" or not isinstance(
            error, (ValueError, OSError)
        ):
            traceback.print_exception(error)
        with contextlib.suppress(Exception):
            self._offer("failure", {"error": cause})
            self._let_others_read(self.index)
        self._leave(FAILED, f"error: {cause}")

    # ---------------------------------------------------------------------------------- the threads

    def _look(self) -> None:
        while not self._over.wait(_AGREEING if self._agreeing else _PERIOD):
            try:
                self._turn()
            except (RuntimeError, ValueError):  # both come from jaxlib
                continue  # `_watch` counts the time without an answer
            self._answered = self._ticks

    def _turn(self) -> None:
        self._beats += 1
        self._set(f"alive/{self.index}", json.dumps([self._beats, self.step]))
        news = {name.rpartition("/")[2]: json.loads(text) for name, text in self._dir("news")}
        if "failure" in news:
            self._end_with(news["failure"])
        if self.index == 0:
            self._look_for_the_lost()
        if self._requested and "stop" not in news:
            self._offer("stop", {"signal": self._requested})
        if "stop" in news and self._sync is None:
            self._agree(news["stop"])

    def _agree(self, stop: dict) -> None:
        """One turn of agreeing on the poll to stop at: all hold still, and the next one of the
        process that is furthest is it.
        """
        if not self._agreeing:
            self._lock.acquire()
            self._agreeing = True
            self._set(f"at/{self.index}", str(self._polls))
        at = [int(polls) for _, polls in self._dir("at")]
        if len(at) == self.count:
            self._sync, self._stop = max(at) + 1, stop
            self._agreeing = False
            self._lock.release()
            self._agreed.set()

    def _look_for_the_lost(self) -> None:
        for name, beat in self._dir("alive"):
            index = int(name.rpartition("/")[2])
            before, since = self._seen.get(index, ("", 0))
            if beat != before:
                self._seen[index] = beat, self._ticks
            elif (self._ticks - since) * _PERIOD > self._timeout:
                self._offer(
                    "failure",
                    {
                        "process": index,
                        "lost": True,
                        "step": json.loads(beat)[1],
                        "error": f"no sign of life for {self._timeout:g} s; killed, stopped, or "
                        "its machine is lost",
                    },
                )

    def _watch(self) -> None:
        """Ends this process where process 0 does not answer."""
        while not self._over.wait(_PERIOD):
            self._ticks += 1
            if (self._ticks - self._answered - 2) * _PERIOD > self._timeout:
                self._ending.acquire()
                self._leave(
                    LOST,
                    f"ended because process 0 ({self._hosts[0]}) has not answered for "
                    f"{self._timeout:g} s; killed, stopped, or its machine is lost",
                )

    def leave_store(self) -> NoReturn:
        """Ends this process because the coordination service is gone."""
        self._ending.acquire()
        self._leave(
            LOST, f"ended because process 0 ({self._hosts[0]}) is gone: killed, or its machine lost"
        )

    def _end_with(self, note: dict) -> None:
        """Ends this process because of another's failure."""
        self._set(f"read/{self.index}", "")
        if note["process"] != self.index:
            self._ending.acquire()
            self._let_others_read(note["process"])
            self._leave(LOST, f"ended because {self._described(note)}")

    def _let_others_read(self, failed: int) -> None:
        """Waits, in process 0, whose end is that of the store, until others know of a failure."""
        deadline = time.monotonic() + _LAST_WORDS
        while self.index == 0 and time.monotonic() < deadline:
            read = {int(name.rpartition("/")[2]) for name, _ in self._dir("read")}
            if read | {0, failed} == set(range(self.count)):
                break
            time.sleep(_AGREEING)

    def _described(self, note: dict) -> str:
        who = f"process {note['process']} ({self._hosts[note['process']]})"
        if "signal" in note:
            return f"{who} received {note['signal']}"
        if note.get("lost"):
            return f"{who} is lost since step {note['step']}: {note['error']}"
        return f"{who} failed at step {note['step']}: {note['error']}"

    def _leave(self, code: int, line: str) -> NoReturn:
        """Ends this process, wherever its main thread is."""
        for cleanup in self._cleanups:
            with contextlib.suppress(Exception):
                cleanup()
        me = f"process {self.index} of {self.count} ({self._hosts[self.index]})"
        end(code, f"{me}: step {self.step}: {line}")

    # ------------------------------------------------------------------------------------ the store

    def _set(self, key: str, value: str) -> None:
        self._store.key_value_set(f"{_ROOT}/{key}", value, allow_overwrite=True)

    def _dir(self, key: str) -> list[tuple[str, str]]:
        key = key if key.startswith(_ROOT) else f"{_ROOT}/{key}"
        return self._store.key_value_dir_get(f"{key}/")

    def _offer(self, key: str, note: dict) -> None:
        """Publishes a note unless another process was first."""
        note = {"process": self.index, "step": self.step} | note
        with contextlib.suppress(RuntimeError):  # ALREADY_EXISTS
            self._store.key_value_set(f"{_ROOT}/news/{key}", json.dumps(note))


def end(code: int, line: str) -> NoReturn:
    """Ends this process from any thread, with a last line; destructors would wait for others."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os.write(2, f"{line}\n".encode())
    os._exit(code)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _is_broken_collective(error: BaseException) -> bool:
    """Whether an error has a code of XLA's collectives, as in "UNKNOWN: Gloo ... failed"."""
    codes = r"(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED): "
    return re.match(codes, str(error)) is not None
