"""Where work runs: here, on processes of this machine, or on a cluster of dask.distributed.

Functions and their arguments travel between the processes of a cluster as pickles, and whoever
reaches its scheduler can run code on it: it must be one's own, on one's own network.
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

_RETRIES = 2  # of a task that failed for something that may pass, such as a network disk
_PER_THREAD = 3  # tasks handed out to each thread of the cluster at a time
_SECONDS = 30.0  # that a scheduler or a first worker may take to answer


class Keyed(Protocol):
    """A piece of work."""

    @property
    def key(self) -> str:
        """Name of it that says nothing of the patient."""


Task = TypeVar("Task", bound=Keyed)
Result = TypeVar("Result")


class Run(Protocol):
    """Calls a function for each of many tasks, in any order."""

    def __call__(
        self, function: Callable[..., Result], tasks: Iterator[Task], shared: Any
    ) -> Iterator[tuple[Task, Result | SpatialARError]]:
        """Yield each task with what ``function(task, shared)`` gave, or raised on purpose."""


def here(
    function: Callable[..., Result], tasks: Iterator[Task], shared: Any
) -> Iterator[tuple[Task, Result | SpatialARError]]:
    """Do the tasks one after the other in this process (see `Run`)."""
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
    """Files that encrypt what goes over the network: of the authority, and of this client."""

    ca: Path
    cert: Path
    key: Path = field(repr=False)


class Cluster:
    """A cluster that is connected to.

    Parameters
    ----------
    client : distributed.Client
        The connection.
    resource : str
        What a worker has to offer for a task, such as ``"GPU"``; "" for nothing.
    """

    def __init__(self, client: Any, resource: str = "") -> None:
        self.client = client
        self.resource = resource

    @property
    def threads(self) -> int:
        """How many tasks its workers do at a time."""
        return sum(self.client.nthreads().values())

    def run(
        self, function: Callable[..., Result], tasks: Iterator[Task], shared: Any
    ) -> Iterator[tuple[Task, Result | SpatialARError]]:
        """Do the tasks on the workers (see `Run`).

        Few are handed out at a time, so that many thousand cost no memory and a stop leaves
        little undone. A task of a worker that is lost goes to another one; a task that loses
        several workers gives an error. A task of an earlier run that is still under way may be
        done twice at the same time, to the same end.
        """
        from distributed import as_completed

        under_way = as_completed(loop=self.client.loop)
        # Of this run: a key that an earlier one has cancelled may still be on its way out.
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
                del future  # or the cluster would keep, and after a loss do again, what is done
                yield task, outcome
                submit_tasks()
        finally:
            if task_of:
                with suppress(Exception):  # the scheduler may be what is gone
                    self.client.cancel(list(task_of))


@dataclass(frozen=True)
class _Failed:
    error: SpatialARError = field(repr=False)


def _quietly(function: Callable[..., Result], task: Any, shared: Any) -> Result | _Failed:
    """Call a function on a worker so that its log, which has the text of errors, names no file.

    What may pass, such as a network disk that is away, is raised, so that it is tried again.
    """
    try:
        return function(task, shared)
    except (MemoryShortage, StorageError):
        raise  # they are of the worker and of the place for results
    except SpatialARError as error:
        return _Failed(error)
    except Exception as error:  # noqa: BLE001 (it goes on under another name)
        # Only where it happened goes on, not what it says.
        raise _Unexpected(type(error).__name__).with_traceback(error.__traceback__) from None


class _Unexpected(Exception):
    """An error that nobody foresaw: its name."""


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
                "A scan was given up: the workers that were given it were lost, one after another",
                fix="Look at their memory, and at their logs",
            )
        raise InputError(
            f"the cluster cannot do it, or the connection was lost ({name})",
            fix="See that this package is installed on every worker; what was finished is kept: "
            "run the same command to go on",
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
    """Connect to a cluster, or make one of processes of this machine for as long as it is used.

    Parameters
    ----------
    address : str
        Of a scheduler, such as ``tcp://10.0.0.5:8786`` or ``tls://...``; "" for ``processes``.
    processes : int
        How many to start here, each with its share of the cores and a GPU of its own, as far
        as there are as many.
    resource : str
        See `Cluster`.
    tls : Tls, optional
        For a scheduler that asks for it.
    seconds : float
        How long to wait for the scheduler and for its first worker.

    Raises
    ------
    InputError
        If dask.distributed is not installed, no scheduler answers, or it has no worker that
        would take a task.
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
            fix="Start one with 'dask scheduler', and see that address and encryption are its own",
        ) from error
    with client:
        _see_workers(client, address, resource, seconds)
        yield Cluster(client, resource)


def _see_workers(client: Any, address: str, resource: str, seconds: float) -> None:
    """Refuse a cluster that would never do a task."""
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
    """Device for this process: of several GPUs, one for each worker that `connect` started.

    A worker of any other cluster is to see its own GPU alone (CUDA_VISIBLE_DEVICES).
    """
    if device not in ("auto", "cuda"):
        return device
    try:
        from distributed import get_worker

        number = int(get_worker().name)
    except (ImportError, ValueError, TypeError):
        return device  # no worker, or one that is named by somebody else
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{number % count}" if count > 1 else device
