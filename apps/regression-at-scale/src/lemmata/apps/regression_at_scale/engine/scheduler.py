"""Where passes run: on the threads of this process, or on a Dask cluster.

Locally this is the standard library's thread pool, which is also what Dask's threaded scheduler runs on.
Reading and linear algebra leave Python's lock alone, so threads use every core, share the table's
description, and hand states over without a copy. Measured on two cores, to be ready for the first task: the
pool 0.001 s and no memory, Dask's threaded scheduler 0.37 s and 19 MB, an in-process `distributed.Client`
0.46 s and 21 MB; per task 0.02, 0.4 and 2.3 ms. The pool also lets a window of tasks slide, which Dask's
threaded scheduler does not. A cluster is any `distributed` scheduler whose workers see the data's paths.
"""

import ctypes
import functools
import importlib
import logging
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from threadpoolctl import threadpool_limits

__all__ = ["Future", "Workers", "connect", "cores", "one_thread", "settle", "should_stop"]

PATIENCE = 8.0
"""Seconds to wait for a cluster's scheduler."""


@runtime_checkable
class Future(Protocol):
    """A task under way."""

    def result(self) -> Any:
        """Wait for the task, and return its result or raise its error."""

    def cancel(self) -> Any:
        """Forget the task."""


@runtime_checkable
class Workers(Protocol):
    """What tasks run on."""

    @property
    def count(self) -> int:
        """Tasks that run at the same time."""

    def share(self, value: Any) -> Any:
        """Return what stands for a value in the arguments of tasks, so that it travels once a worker.

        Args:
            value: What many tasks take.

        Returns:
            The value itself, or a handle to it.
        """

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        """Start a task.

        Args:
            function: A function of a module.
            arguments: Its arguments; handles are replaced by what they stand for.

        Returns:
            The task.
        """

    def collect(self, future: Future) -> Any:
        """Wait for a task, and return its result.

        Args:
            future: The task.

        Returns:
            Its result.

        Raises:
            ChildProcessError: Where workers died over it, or the cluster is lost.
            OSError: Where the workers lack the code.
        """


@contextmanager
def connect(scheduler: str = "local", workers: int | None = None) -> Iterator[Workers]:
    """Open what passes run on; at the end of the block nothing runs any more.

    Args:
        scheduler: `"local"` for threads of this process, or the address of a Dask scheduler, say
            `"tcp://10.0.0.1:8786"`.
        workers: Threads of this process, one a core where not given. A cluster has as many as it has.

    Yields:
        The workers.

    Raises:
        ValueError: Where `workers` is not positive, or given with a cluster.
        OSError: Where the scheduler cannot be reached, or has no workers.

    Examples:
        >>> with connect("local", workers=2) as pool:
        ...     pool.collect(pool.submit(pow, 2, 10))
        1024
    """
    if workers is not None and workers < 1:
        raise ValueError(f"`workers` (={workers}) must be at least 1")
    if scheduler == "local":
        with _threads(workers or cores()) as pool:
            yield pool
        return
    if "://" not in scheduler:
        raise ValueError(
            f"`scheduler` (={scheduler!r}) must be 'local' or an address such as 'tcp://host:8786'"
        )
    if workers is not None:
        raise ValueError(f"`workers` (={workers}) is the number of local threads; a cluster has its own")
    with _cluster(scheduler) as pool:
        yield pool


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread within this block, so that results do not depend on how many there are.

    Examples:
        >>> with one_thread():
        ...     torch.get_num_threads()
        1
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


def settle() -> None:
    """Make a worker's thread compute on one thread from now on.

    Workers share a process, so none of them may restore what it found while others compute; in this process
    `connect` restores it at the end.
    """
    # OpenMP counts threads a thread, BLAS a process.
    torch.set_num_threads(1)
    _limit_blas()


@functools.cache
def _limit_blas() -> None:
    threadpool_limits(1)


class _Threads:
    """Threads of this process."""

    def __init__(self, pool: ThreadPoolExecutor, count: int) -> None:
        self._pool, self._count = pool, count

    @property
    def count(self) -> int:
        return self._count

    def share(self, value: Any) -> Any:
        return value

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        return self._pool.submit(function, *arguments)

    def collect(self, future: Future) -> Any:
        return future.result()


@contextmanager
def _threads(count: int) -> Iterator[_Threads]:
    """Open a thread pool; an exception in the block stops tasks at their next chunk."""
    stop = threading.Event()

    def begin() -> None:
        _STOPS.event = stop

    _give_memory_back()
    with one_thread():
        pool = ThreadPoolExecutor(count, thread_name_prefix="pass", initializer=begin)
        try:
            yield _Threads(pool, count)
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _give_memory_back() -> None:
    """Have the C library give chunks back to the system when they are freed, and Arrow use that library.

    glibc keeps blocks of up to 32 MB for later once one of that size was freed, a heap for each thread, and
    so does Arrow's own allocator: measured on chunks of 32 MB, two workers, it is a tenth of the process.
    Other C libraries have no such option.
    """
    import pyarrow as pa

    pa.set_memory_pool(pa.system_memory_pool())
    library = ctypes.CDLL(None) if os.name == "posix" else None
    if library is not None and hasattr(library, "mallopt") and hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_MMAP_THRESHOLD, 4 << 20)


_MMAP_THRESHOLD = -3  # glibc's number of the option
_STOPS = threading.local()


def should_stop() -> bool:
    """Tell a task whether nobody waits for it any more.

    Examples:
        >>> should_stop()
        False
    """
    event = getattr(_STOPS, "event", None)
    return event is not None and bool(event.is_set())


class _Cluster:
    """A Dask cluster."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @property
    def count(self) -> int:
        return max(1, sum(map(int, self._client.nthreads().values())))

    def share(self, value: Any) -> Any:
        # A task and not `scatter`: when the workers that hold the value die, Dask computes it again.
        return self._client.submit(pickle.loads, pickle.dumps(value), pure=False)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        future: Future = self._client.submit(function, *arguments, pure=False)
        return future

    def collect(self, future: Future) -> Any:
        distributed = _distributed()
        try:
            return future.result()
        except distributed.KilledWorker:
            raise ChildProcessError(
                "workers died over one task several times (out of memory, or killed); "
                "--resume continues with what is finished"
            ) from None
        except (CancelledError, distributed.comm.CommClosedError) as error:
            raise ChildProcessError(
                f"the cluster is lost ({type(error).__name__}); --resume continues with what is finished"
            ) from None
        except ImportError as error:
            raise OSError(f"the cluster's workers cannot import what they run: {error}") from None


@contextmanager
def _cluster(address: str) -> Iterator[_Cluster]:
    distributed = _distributed()
    with _quiet("distributed"):
        try:
            client = distributed.Client(address, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            raise OSError(f"`scheduler` (={address!r}) cannot be reached: {_one_line(error)}") from None
        with client, one_thread():
            if not client.nthreads():
                raise OSError(f"`scheduler` (={address!r}) has no workers")
            yield _Cluster(client)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a library's messages off the terminal; what matters comes back as an exception."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _distributed() -> Any:
    """Import distributed, whose functions are not annotated."""
    return importlib.import_module("distributed")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
