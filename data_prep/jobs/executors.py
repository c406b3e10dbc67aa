"""Runs independent tasks in worker processes that end with the command, or on a Dask cluster."""

from __future__ import annotations

import functools
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

_CONNECT_S = 15

Task = TypeVar("Task")
Result = TypeVar("Result")


def run(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int,
    bytes_per_worker: int | None = None,
) -> Iterator[Result]:
    """Yields function(task) of every task as it finishes, in no fixed order; with one worker, in
    this process and in order.

    With `bytes_per_worker`, a task that allocates more than that in its process gets a MemoryError.
    The first exception of a task ends the run. Raises OSError where a worker process was killed.
    """
    if workers == 1 and bytes_per_worker is None:
        yield from map(function, tasks)
        return
    start = functools.partial(_start_worker, bytes_per_worker)
    pool = ProcessPoolExecutor(
        min(workers, max(len(tasks), 1)), multiprocessing.get_context("spawn"), initializer=start
    )
    try:
        for future in as_completed([pool.submit(function, task) for task in tasks]):
            yield future.result()
    except BrokenProcessPool as error:
        raise OSError(
            "a worker process was killed, perhaps for lack of memory; run the same command again "
            "with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def run_dask(
    function: Callable[[Task], Result], tasks: Sequence[Task], scheduler: str
) -> Iterator[Result]:
    """Like `run`, on the workers of the Dask cluster at `scheduler`.

    A task whose worker is lost runs again on another.

    Raises OSError where the scheduler cannot be reached or a task has lost too many workers.
    """
    import distributed  # imported only here, because it is slow to import

    try:
        client = distributed.Client(scheduler, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise OSError(
            f"no Dask scheduler answers at {scheduler} ({error}); start one with `dask scheduler`, "
            "then run the same command again"
        ) from error
    with client:
        futures = client.map(functools.partial(_without_cause, function), tasks, pure=False)
        try:
            for _, result in distributed.as_completed(futures, with_results=True, loop=client.loop):
                yield result
        except distributed.KilledWorker as error:
            raise OSError(
                f"{error}; give the workers more memory, then run the same command again"
            ) from error
        finally:
            client.cancel(futures)


def _without_cause(function: Callable[[Task], Result], task: Task) -> Result:
    """function(task), without causes of errors: GDAL's cannot be pickled, and Dask would report
    only their names.
    """
    try:
        return function(task)
    except (ValueError, OSError) as error:
        error.__cause__ = error.__context__ = None
        raise


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker(max_bytes: int | None) -> None:
    if max_bytes is not None:  # RLIMIT_DATA counts allocated memory, not mapped files
        resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))
    # Ctrl-C goes to the whole process group; the parent lets running tasks finish.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    # Idle workers hold both ends of the task queue, so they would wait forever if the parent were
    # killed.
    multiprocessing.parent_process().join()
    os._exit(1)
