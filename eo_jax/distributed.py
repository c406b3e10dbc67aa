"""Starts and ends a run of many processes on `jax.distributed`; no process of it ends alone.

Only this file knows `jax._src`: the key-value store of the coordination service, which `peers.py`
uses, and two time-outs of it, are not public. Where that service is lost, jaxlib aborts the
process; the abort is turned into one line and an exit code here.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

import jax
from absl import flags
from jax._src import distributed as _state
from jax._src.lib import _jax

from eo_jax import peers

_START_S = 300  # environment EO_JAX_START_TIMEOUT
_PEER_S = 60  # environment EO_JAX_PEER_TIMEOUT

flags.DEFINE_string(
    "distributed",
    None,
    "off (default), auto (SLURM, Open MPI, Cloud TPU, Kubernetes), or HOST:PORT of process 0; "
    "environment EO_JAX_COORDINATOR",
)
flags.DEFINE_integer(
    "process-id", None, "number of this process, with HOST:PORT; environment EO_JAX_PROCESS_ID"
)
flags.DEFINE_integer(
    "num-processes", None, "number of processes, with HOST:PORT; environment EO_JAX_NUM_PROCESSES"
)


class Start(NamedTuple):
    """How a run starts: "off", "auto" or HOST:PORT, or "" where nobody says; the numbers go with
    HOST:PORT.
    """

    coordinator: str
    process: int | None = None
    processes: int | None = None


def chosen(
    coordinator: str | None,
    process: int | None,
    processes: int | None,
    environment: Mapping[str, str],
) -> Start:
    """What flags say, or else the environment. Raises ValueError."""
    coordinator = coordinator or environment.get("EO_JAX_COORDINATOR", "")
    if coordinator in ("", "off", "auto"):
        return Start(coordinator)
    if not re.fullmatch(r".+:\d+", coordinator):
        raise ValueError(
            f"--distributed={coordinator} (or EO_JAX_COORDINATOR): expected off, auto, or "
            "HOST:PORT of process 0"
        )
    numbers = [
        _number(flag, value, variable, environment)
        for flag, value, variable in (
            ("--process-id", process, "EO_JAX_PROCESS_ID"),
            ("--num-processes", processes, "EO_JAX_NUM_PROCESSES"),
        )
    ]
    start = Start(coordinator, *numbers)
    if not 0 <= start.process < start.processes:
        raise ValueError(
            f"--process-id={start.process} with --num-processes={start.processes}; expected 0 to "
            f"{start.processes - 1}"
        )
    return start


def _number(flag: str, value: int | None, variable: str, environment: Mapping[str, str]) -> int:
    if value is not None:
        return value
    found = environment.get(variable, "")
    if not found.isdecimal():
        raise ValueError(
            f"{variable}={found!r}: with --distributed=HOST:PORT, give {flag}, or set {variable} "
            "to a number"
        )
    return int(found)


def check_alone(environment: Mapping[str, str]) -> None:
    """Raises ValueError where the environment says that this is one task of several.

    Each of them would believe that it is alone, and write into the same workdir.
    """
    for variable, tasks in _tasks(environment):
        if tasks > 1:
            raise ValueError(
                f"{variable} says that this job has {tasks} tasks, but --distributed is off, so "
                "each would train on its own and write into the same workdir; add "
                "--distributed=auto (or HOST:PORT), or start one task"
            )


def check_pod(environment: Mapping[str, str]) -> None:
    """Raises ValueError in a pod of an indexed Job of Kubernetes, where nobody says how to start.

    A pod is told its own number only, not how many there are. In a run of several, number 0 would
    train alone until the others have failed too often.
    """
    if "JOB_COMPLETION_INDEX" in environment:
        raise ValueError(
            "JOB_COMPLETION_INDEX says that this is a pod of an indexed Job, perhaps of several; "
            "add --distributed=auto (or HOST:PORT) if they train together, or --distributed=off if "
            "each pod trains on its own, in a workdir of its own"
        )


def _tasks(environment: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """(variable, number of tasks) of the launchers that are known."""
    slurm = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    for variable in (slurm, "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MEGASCALE_NUM_SLICES"):
        if environment.get(variable, "").isdecimal():
            yield variable, int(environment[variable])
    for variable in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        yield variable, len(environment.get(variable, "").split(","))
    yield from ((name, 2) for name in environment if name.startswith("JOBSET_"))


@contextlib.contextmanager
def processes(start: Start) -> Iterator[peers.Peers | peers.Alone]:
    """The processes of a run, to the end of the block. Raises ValueError.

    An error in the block ends all processes, this one with exit code 1 and the others with 75; the
    end of the block is reached by all before one leaves.
    """
    if start.coordinator in ("", "off"):
        check_alone(os.environ)
        if not start.coordinator:
            check_pod(os.environ)
        yield peers.Alone()
        return
    if not _initialized(start):
        print("--distributed=auto: no cluster in the environment; one process", flush=True)
        yield peers.Alone()
        return
    _lost.then = _without_devices
    together = peers.Peers(
        _state.global_state.client,
        jax.process_index(),
        jax.process_count(),
        seconds("EO_JAX_PEER_TIMEOUT", _PEER_S),
    )
    together.obey_signals()
    _lost.then = together.leave_store
    try:
        together.meet()
        yield together
    except BaseException as error:  # SystemExit and KeyboardInterrupt must not leave others behind
        together.fail(error)
    together.finish()
    jax.distributed.shutdown()


def seconds(variable: str, default: int) -> int:
    """A time-out from the environment."""
    value = os.environ.get(variable, str(default))
    if not value.isdecimal() or not int(value):
        raise ValueError(f"{variable}={value!r}; expected a number of seconds")
    return int(value)


def _initialized(start: Start) -> bool:
    """Whether there is a cluster, whose processes have now found each other."""
    wait = seconds("EO_JAX_START_TIMEOUT", _START_S)
    # jaxlib's own detection of lost processes must not be faster than that of `peers`, whose last
    # line says which process is to blame.
    far = 10 * seconds("EO_JAX_PEER_TIMEOUT", _PEER_S)
    explicit = {
        "coordinator_address": start.coordinator,
        "process_id": start.process,
        "num_processes": start.processes,
        "cluster_detection_method": "deactivate",
    }
    # JAX' preemption service knows of SIGTERM alone, which `peers` handles, and would swallow one
    # that comes before that.
    jax.config.update("jax_enable_preemption_service", False)
    _on_abort()
    with _patched(wait), _captured_errors() as (captured, errors):
        _lost.then = functools.partial(_not_started, start, wait, captured, errors)
        try:
            jax.distributed.initialize(
                **explicit if start.coordinator != "auto" else {},
                initialization_timeout=wait + 10,  # process 0 first: it knows who is missing
                heartbeat_timeout_seconds=far,
                shutdown_timeout_seconds=far,
            )
        except ValueError as error:
            if start.coordinator == "auto" and "should be defined" in str(error):
                return False
            raise
        except RuntimeError as error:
            os.write(captured, str(error).encode())
            _lost()
    return True


@contextlib.contextmanager
def _patched(wait: int) -> Iterator[None]:
    """With the time-outs and the callback that `jax.distributed.initialize` does not pass on."""
    service, client = _jax.get_distributed_runtime_service, _jax.get_distributed_runtime_client
    _jax.get_distributed_runtime_service = functools.partial(service, cluster_register_timeout=wait)
    _jax.get_distributed_runtime_client = functools.partial(client, missed_heartbeat_callback=_lost)
    try:
        yield
    finally:
        _jax.get_distributed_runtime_service, _jax.get_distributed_runtime_client = service, client


@contextlib.contextmanager
def _captured_errors() -> Iterator[tuple[int, int]]:
    """(descriptor of a file with what jaxlib writes to the standard error output meanwhile, and of
    that output).
    """
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield file.fileno(), kept
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def missing_processes(text: str) -> list[int]:
    """The processes that the coordination service has waited for in vain, by its message."""
    found = re.search(r"Some timed out task names:\n((?:\S+\n)*)", text)
    return sorted({int(name) for name in re.findall(r"(\d+)$", found[1], re.M)}) if found else []


def _not_started(start: Start, wait: int, captured: int, errors: int) -> NoReturn:
    os.dup2(errors, 2)
    text = os.pread(captured, 2**20, 0).decode(errors="replace")
    missing = missing_processes(text)
    count = start.processes or len(missing)
    if missing:
        line = f"process {', '.join(map(str, missing))} did not start within {wait} s"
    elif "bad_cast" in text or "DEADLINE_EXCEEDED" in text:  # jaxlib could not say, or waited
        line = (
            f"not all processes met ({start.coordinator}) within {wait} s; the last line of "
            "process 0 names those that are missing, and if process 0 has none, it is missing"
        )
    else:
        line = next(iter(text.strip().splitlines()), "the coordination service ended")
    who = f"process {start.process} of {count}" if start.process is not None else "this process"
    peers.end(
        1,
        f"{who} ({socket.gethostname()}): error: {line}; start all of them with the same "
        "coordinator, and EO_JAX_START_TIMEOUT=SECONDS if they need longer",
    )


def _without_devices() -> NoReturn:
    """Ends this process: all exchange what devices they have, and one does not come to that."""
    state = _state.global_state
    peers.end(
        peers.LOST,
        f"process {state.process_id} of {state.num_processes} ({socket.gethostname()}): ended "
        "because another process was lost before it had told of its devices; killed, stopped, or "
        "its machine is lost",
    )


class _Lost:
    """Called where jaxlib has lost the coordination service, with its status or a signal."""

    then: Callable[[], NoReturn]

    def __call__(self, *_: Any) -> NoReturn:
        self.then()


_lost = _Lost()
_aborted = ctypes.CFUNCTYPE(None, ctypes.c_int)(_lost)  # kept: C has only its address


def _on_abort() -> None:
    """Calls `_lost` at SIGABRT, in the thread of jaxlib that aborts.

    Python's own handlers run in the main thread only, which waits for a collective by then. And
    the callback alone is not enough: jaxlib 0.10 cannot give its status to Python, and aborts.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(_aborted, ctypes.c_void_p))
