"""Run tasks that return nothing on Dask, in this process or on a cluster, with a bounded number in flight."""

import importlib
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, TypeVar

__all__ = ["run_all"]

T = TypeVar("T")

# Enough that no worker waits for the client, few enough that a million tasks are no load.
_IN_FLIGHT_PER_WORKER = 4

PATIENCE = 10.0
"""Seconds to wait for a scheduler."""


def run_all(
    function: Callable[[T], None],
    tasks: Sequence[T],
    *,
    workers: int | None,
    scheduler: str | None,
    finished: Callable[[], None],
) -> None:
    """Call a function on every task.

    Args:
        function: What to do with a task; it returns nothing, so that nothing gathers here.
        tasks: What to do it with.
        workers: Processes of a local cluster, one thread each; where ``None`` one a core, or none for one
            or two tasks; 0 stays in this process.
        scheduler: Address of a running scheduler, in place of a local cluster.
        finished: Called after each task.

    Raises:
        ChildProcessError: Where workers die repeatedly over a task, or the cluster is lost.
        OSError: Where the scheduler cannot be reached.
        Exception: Whatever ``function`` raises on a worker.
    """
    if scheduler is None:
        # Starting a process takes seconds, which two tasks are hardly worth.
        cores = _cores() if len(tasks) > 2 else 0
        workers = min(cores if workers is None else workers, len(tasks))
    if scheduler is None and workers == 0:
        for task in tasks:
            function(task)
            finished()
        return
    with _client(function, workers, scheduler) as client:
        _run_on(client, function, tasks, finished)


def _run_on(
    client: Any, function: Callable[[T], None], tasks: Sequence[T], finished: Callable[[], None]
) -> None:
    from concurrent.futures import CancelledError

    distributed = _distributed()
    waiting = iter(tasks)
    slots = _IN_FLIGHT_PER_WORKER * max(1, sum(client.nthreads().values()))
    first = [client.submit(function, task, pure=False) for task in islice(waiting, slots)]
    running = distributed.as_completed(first, loop=client.loop)
    try:
        for future in running:
            future.result()
            finished()
            for task in islice(waiting, 1):
                running.add(client.submit(function, task, pure=False))
    except distributed.KilledWorker:
        raise ChildProcessError(
            "workers died over one task twice (out of memory, or killed); "
            "--resume continues with what is finished"
        ) from None
    except (CancelledError, distributed.comm.CommClosedError) as error:
        raise ChildProcessError(
            f"the cluster is lost ({type(error).__name__}); --resume continues with what is finished"
        ) from None


@contextmanager
def _client(function: Callable[..., None], workers: int | None, scheduler: str | None) -> Iterator[Any]:
    import dask

    distributed = _distributed()
    if scheduler is not None:
        try:
            client = distributed.Client(scheduler, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            raise OSError(f"`scheduler` (={scheduler!r}) cannot be reached: {error}") from error
        with client:
            yield client
        return
    # A chunk that takes down two workers will take down the next; the default is four.
    options: dict[str, Any] = {"distributed.scheduler.allowed-failures": 1}
    if "forkserver" in multiprocessing.get_all_start_methods():
        options["distributed.worker.multiprocessing-method"] = "forkserver"
    with dask.config.set(options):
        _preload(function)
        try:
            cluster = distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,
                # Any free port: the default one would warn where another cluster has it.
                dashboard_address=":0",
                worker_dashboard_address=None,
                scheduler_kwargs={"dashboard": False},
                silence_logs=logging.CRITICAL,
            )
        except RuntimeError as error:
            raise ChildProcessError(
                f"workers cannot start ({error}); in a script call generate() under "
                "`if __name__ == '__main__':`, or pass workers=0"
            ) from error
        with cluster, distributed.Client(cluster, set_as_default=False) as client:
            yield client


def _preload(function: Callable[..., None]) -> None:
    """Let workers fork from one process that has imported PyTorch, whose pages they then share."""
    context = _distributed().utils.get_mp_context()
    if context.get_start_method() == "forkserver":
        module = function.func.__module__ if isinstance(function, partial) else function.__module__
        context.set_forkserver_preload(["distributed", module])


def _distributed() -> Any:
    """Import distributed, whose functions are not annotated."""
    return importlib.import_module("distributed")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
