"""Run functions where the solvers run: in this process, or on a Dask cluster with a bounded number in flight.

Functions are named by `"module:function"`, so that a process that hands out work imports none of it.
"""

import importlib
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol

__all__ = ["Workers", "open_workers"]

PATIENCE = 10.0
"""Seconds to wait for a scheduler."""

# Enough that no worker waits for the client, few enough that a million tasks are no load.
_IN_FLIGHT_PER_WORKER = 4


class Workers(Protocol):
    """Where functions run."""

    def call(self, target: str, *arguments: Any) -> Any:
        """Call a function once and return its result.

        Args:
            target: `"module:function"`.
            arguments: Its arguments.

        Returns:
            Its result.
        """

    def each(self, target: str, common: Any, items: Sequence[Any], finished: Callable[[], None]) -> None:
        """Call a function on every item; it returns nothing, so that nothing gathers here.

        Args:
            target: `"module:function"`.
            common: Its first argument.
            items: Its second argument, one a call.
            finished: Called after each.
        """


@contextmanager
def open_workers(
    workers: int | None, scheduler: str | None, *, tasks: int, preload: str
) -> Iterator[Workers]:
    """Open what functions run on.

    Args:
        workers: Processes of a local cluster, one thread each; where `None` one a core, or none for one or
            two tasks; 0 stays in this process.
        scheduler: Address of a running scheduler, in place of a local cluster.
        tasks: How many tasks there will be.
        preload: Module that workers need.

    Yields:
        The workers.

    Raises:
        ChildProcessError: Where workers cannot start, die repeatedly over a task, or the cluster is lost.
        OSError: Where the scheduler cannot be reached.
    """
    if scheduler is not None:
        with _connected(scheduler) as client:
            yield _Cluster(client)
        return
    # Starting a process takes seconds, which two tasks are hardly worth.
    cores = _cores() if tasks > 2 else 0
    count = min(cores if workers is None else workers, tasks)
    if count == 0:
        yield _Here()
        return
    with _started(count, preload) as client:
        yield _Cluster(client)


class _Here:
    """This process."""

    def call(self, target: str, *arguments: Any) -> Any:
        return _call(target, *arguments)

    def each(self, target: str, common: Any, items: Sequence[Any], finished: Callable[[], None]) -> None:
        for item in items:
            _call(target, common, item)
            finished()


class _Cluster:
    """A Dask cluster."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def call(self, target: str, *arguments: Any) -> Any:
        with _deaths_in_one_line():
            return self._client.submit(_call, target, *arguments, pure=False).result()

    def each(self, target: str, common: Any, items: Sequence[Any], finished: Callable[[], None]) -> None:
        client, waiting = self._client, iter(items)
        slots = _IN_FLIGHT_PER_WORKER * max(1, sum(client.nthreads().values()))
        with _deaths_in_one_line():
            first = [
                client.submit(_call, target, common, item, pure=False) for item in islice(waiting, slots)
            ]
            running = _distributed().as_completed(first, loop=client.loop)
            for future in running:
                future.result()
                finished()
                for item in islice(waiting, 1):
                    running.add(client.submit(_call, target, common, item, pure=False))


def _call(target: str, *arguments: Any) -> Any:
    """Import a function and call it."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)(*arguments)


@contextmanager
def _deaths_in_one_line() -> Iterator[None]:
    from concurrent.futures import CancelledError

    distributed = _distributed()
    try:
        yield
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
def _connected(scheduler: str) -> Iterator[Any]:
    try:
        client = _distributed().Client(scheduler, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise OSError(f"`scheduler` (={scheduler!r}) cannot be reached: {error}") from error
    with client:
        yield client


@contextmanager
def _started(workers: int, preload: str) -> Iterator[Any]:
    """Start a local cluster of processes."""
    import dask

    distributed = _distributed()
    options: dict[str, Any] = {
        # A chunk that takes down two workers will take down the next; the default is four.
        "distributed.scheduler.allowed-failures": 1,
        # One thread each. The default also gives freed memory back at once, which doubles a solver's time.
        "distributed.nanny.pre-spawn-environ": dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), 1
        ),
        # Sampling what workers do costs a little, and nobody looks.
        "distributed.worker.profile.enabled": False,
    }
    if "forkserver" in multiprocessing.get_all_start_methods():
        options["distributed.worker.multiprocessing-method"] = "forkserver"
    with dask.config.set(options):
        context = distributed.utils.get_mp_context()
        if context.get_start_method() == "forkserver":
            # Workers fork from one process that has imported PyTorch, and share its pages.
            context.set_forkserver_preload(["distributed", preload])
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


def _distributed() -> Any:
    """Import distributed, whose functions are not annotated."""
    return importlib.import_module("distributed")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
