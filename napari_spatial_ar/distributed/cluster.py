"""Where work runs: here, in several processes of this machine, or on a dask.distributed cluster.

Functions and their arguments travel between the processes of a cluster as pickles, and whoever
reaches its scheduler can run code on it: it must be your own, in your own network.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeVar

from napari_spatial_ar.errors import InputError, MemoryShortage, SpatialARError, StorageError

__all__ = ["Cluster", "Keyed", "Run", "Tls", "connect", "here", "own_device"]

_RETRIES = 2  # for a task that failed for a temporary reason, such as a network disk
_PER_THREAD = 3  # tasks submitted per thread of the cluster at a time
_SECONDS = 30.0  # limit for an answer of a scheduler or a first worker


class Keyed(Protocol):
    """A piece of work."""

    @property
    def key(self) -> str:
        """Its name, without anything that identifies the patient."""


Task = TypeVar("Task", bound=Keyed)
Shared = TypeVar("Shared")
Result = TypeVar("Result")


class Run(Protocol):
    """Calls a function for each of many tasks, in any order."""

    def __call__(
        self, function: Callable[[Task, Shared], Result], tasks: Iterator[Task], shared: Shared
    ) -> Iterator[tuple[Task, Result | SpatialARError]]:
        """Yield each task with the result of ``function(task, shared)``, or its error."""


def here(
    function: Callable[[Task, Shared], Result], tasks: Iterator[Task], shared: Shared
) -> Iterator[tuple[Task, Result | SpatialARError]]:
    """Run the tasks one after the other in this process (see `Run`)."""
    for task in tasks:
        try:
            outcome: Result | SpatialARError = function(task, shared)
        except SpatialARError as error:
            outcome = error
        except Exception as error:  # noqa: BLE001 (a scan's trouble is its own)
            outcome = InputError(f"A scan failed with {type(error).__name__}")
        yield task, outcome


@dataclass(frozen=True)
class Tls:
    """TLS files: the certificate of the authority, and certificate and key of this client."""

    ca: Path
    cert: Path
    key: Path = field(repr=False)


class Cluster:
    """A connected cluster.

    Parameters
    ----------
    client : distributed.Client
        The connection.
    resource : str
        Resource that a worker must offer for a task, such as ``"GPU"``; "" for none.
    """

    def __init__(self, client: Any, resource: str = "") -> None:
        self.client = client
        self.resource = resource

    @property
    def threads(self) -> int:
        """Number of tasks that its workers run at a time."""
        return sum(self.client.nthreads().values())

    def run(
        self, function: Callable[[Task, Shared], Result], tasks: Iterator[Task], shared: Shared
    ) -> Iterator[tuple[Task, Result | SpatialARError]]:
        """Run the tasks on the workers (see `Run`).

        Only a few are submitted at a time, so that thousands need no memory and a stop leaves
        little undone. If a worker is lost, its task goes to another one; a task that loses several
        workers results in an error. A task of an earlier run that is still running may run twice
        at the same time, with the same result.
        """
        from distributed import as_completed

        under_way = as_completed(loop=self.client.loop)
        # Unique to this run: a key that an earlier run cancelled may still be in use.
        run = uuid.uuid4().hex[:8]
        task_of: dict[Any, Task] = {}
        options = {"resources": {self.resource: 1}} if self.resource else {}

        def submit_tasks() -> None:
            room = max(1, _PER_THREAD * self.threads) - len(task_of)
            while room > 0 and (task := next(tasks, None)) is not None:
                future = self.client.submit(
                    _quietly,
                    function,
                    task,
                    shared,
                    key=f"{function.__name__}-{task.key}-{run}",
                    retries=_RETRIES,
                    pure=False,
                    **options,
                )
                task_of[future] = task
                under_way.add(future)
                room -= 1

        try:
            submit_tasks()
            while task_of:
                future = next(under_way)
                task = task_of.pop(future)
                outcome = _outcome(future)
                del future  # or the cluster would hold it, and compute it again after a loss
                yield task, outcome
                submit_tasks()
        finally:
            if task_of:
                with suppress(Exception):  # the scheduler itself may be lost
                    self.client.cancel(list(task_of))


@dataclass(frozen=True)
class _Failed:
    error: SpatialARError = field(repr=False)


def _quietly(
    function: Callable[[Task, Shared], Result], task: Task, shared: Shared
) -> Result | _Failed:
    """Call a function on a worker, without file names in its log, which contains error messages.

    Temporary failures, such as an unreachable network disk, are raised, so that they are retried.
    """
    try:
        return function(task, shared)
    except (MemoryShortage, StorageError):
        raise  # about the worker or the storage for results
    except SpatialARError as error:
        return _Failed(error)
    except Exception as error:  # noqa: BLE001 (it goes on under another name)
        # Only the location of the error is passed on, not its message.
        raise _Unexpected(type(error).__name__).with_traceback(error.__traceback__) from None


class _Unexpected(Exception):
    """The name of an unexpected error."""


def _outcome(future: Any) -> Any:
    try:
        outcome = future.result()
        return outcome.error if isinstance(outcome, _Failed) else outcome
    except SpatialARError as error:
        return error
    except _Unexpected as error:
        return InputError(f"A scan failed with {error} on a worker", fix="See the worker's log")
    except Exception as error:
        name = type(error).__name__
        if name == "KilledWorker":
            return InputError(
                "A scan was given up: the workers that received it were lost, one after another",
                fix="Check their memory and their logs",
            )
        raise InputError(
            f"the cluster cannot do it, or the connection was lost ({name})",
            fix="Check that this package is installed on every worker. Finished work is kept: run "
            "the same command again to resume",
        ) from error


@contextmanager
def connect(
    address: str = "",
    *,
    processes: int = 0,
    resource: str = "",
    tls: Tls | None = None,
    seconds: float = _SECONDS,
) -> Iterator[Cluster]:
    """Connect to a cluster, or start one from processes of this machine within a context.

    Parameters
    ----------
    address : str
        Of a scheduler, such as ``tcp://10.0.0.5:8786`` or ``tls://...``; "" for ``processes``.
    processes : int
        Number of processes to start here, each with its share of the cores and, if there are
        enough, its own GPU.
    resource : str
        See `Cluster`.
    tls : Tls, optional
        For a scheduler that requires it.
    seconds : float
        How long to wait for the scheduler and for its first worker.

    Raises
    ------
    InputError
        If dask.distributed is not installed, no scheduler answers, or it has no worker that would
        accept a task.
    """
    if find_spec("distributed") is None:
        raise InputError(
            "work on several processes or machines needs dask.distributed, which is not installed",
            fix="Run: pip install 'napari-spatial-ar[cluster]'",
        )
    if bool(address) == (processes > 0):
        raise InputError("give either the address of a scheduler or a number of processes")
    import dask
    from distributed import Client, LocalCluster
    from distributed.security import Security

    if processes:
        share = str(max(1, (os.cpu_count() or 1) // processes))
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), share)
        with (
            dask.config.set({"distributed.nanny.pre-spawn-environ": limits}),
            LocalCluster(
                n_workers=processes,
                threads_per_worker=1,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            ) as local,
            Client(local, set_as_default=False) as client,
        ):
            yield Cluster(client, resource)
        return
    security = None
    if tls is not None:
        security = Security(
            tls_ca_file=str(tls.ca),
            tls_client_cert=str(tls.cert),
            tls_client_key=str(tls.key),
            require_encryption=True,
        )
    try:
        client = Client(address, security=security, timeout=seconds, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"no scheduler answers at {address}",
            fix="Start one with 'dask scheduler', and check the address and the encryption",
        ) from error
    with client:
        _see_workers(client, address, resource, seconds)
        yield Cluster(client, resource)


def _see_workers(client: Any, address: str, resource: str, seconds: float) -> None:
    """Refuse a cluster that would never run a task."""
    try:
        client.wait_for_workers(1, timeout=seconds)
    except TimeoutError as error:
        raise InputError(
            f"the scheduler at {address} has no worker", fix=f"Start some: dask worker {address}"
        ) from error
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if resource and not any(worker.get("resources", {}).get(resource) for worker in workers):
        raise InputError(
            f"no worker of the scheduler at {address} offers '{resource}'",
            fix=f"Start some with: dask worker {address} --nthreads 1 --resources {resource}=1",
        )


def own_device(device: str) -> str:
    """Device for this process: with several GPUs, one for each worker started by `connect`.

    Workers of other clusters should see only their own GPU (CUDA_VISIBLE_DEVICES).
    """
    if device not in ("auto", "cuda"):
        return device
    try:
        from distributed import get_worker

        number = int(get_worker().name)
    except (ImportError, ValueError, TypeError):
        return device  # not a worker, or one named by someone else
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{number % count}" if count > 1 else device
