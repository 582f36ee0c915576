"""Where a batch runs: worker processes of this machine, or a scheduler that is there."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from napari_surgsam2.errors import SurgSam2Error, UsageError

# On a CPU more threads make a frame hardly faster, and more workers need more memory.
_THREADS_PER_WORKER = 4
# What a worker may need: a model, the memories of tracked frames (2 GiB) and some frames.
_BYTES_PER_WORKER = 4 * 2**30
_SECONDS_TO_CONNECT = 30
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class ClusterError(SurgSam2Error):
    """The scheduler cannot be reached, or local workers do not start."""


@dataclass(frozen=True)
class Plan:
    """Local workers, indexed by their number.

    Attributes
    ----------
    environments : tuple of dict of str to str
        What is set for each: its GPU, if there is one, and its number of threads.
    """

    environments: tuple[dict[str, str], ...]

    def __len__(self) -> int:
        return len(self.environments)


def require_distributed() -> None:
    """Raise UsageError if dask.distributed is not installed."""
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise UsageError(
            "A batch needs dask.distributed, which is not installed; install it with: "
            "pip install 'napari-surgsam2[distributed]'"
        ) from None


def plan_workers(jobs: int, workers: int | None, device: str) -> Plan:
    """Plan the workers of this machine: one per GPU, else by cores and memory, and no more than jobs.

    Parameters
    ----------
    jobs : int
        How many there are to do.
    workers : int or None
        How many were asked for; they share the GPUs.
    device : str
        "auto", "cpu", "cuda", "cuda:N" or "mps"; of the first and of "cuda" the workers take turns in GPUs.

    Raises
    ------
    UsageError
        If the number is below 1.
    DeviceError
        If the device is not there.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"The number of workers is {workers}; it must be at least 1.")
    from dask.system import CPU_COUNT

    gpus = _gpus(device)
    if workers is None:
        workers = len(gpus) if gpus else _by_cores(CPU_COUNT)
    workers = max(1, min(workers, jobs))
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, CPU_COUNT // workers))
    environments = []
    for number in range(workers):
        environment = dict.fromkeys(_THREAD_VARIABLES, threads)
        if gpus and gpus[0]:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
        environments.append(environment)
    return Plan(tuple(environments))


def _by_cores(cores: int) -> int:
    from distributed.system import MEMORY_LIMIT

    return max(1, min(cores // _THREADS_PER_WORKER, int(MEMORY_LIMIT) // _BYTES_PER_WORKER))


def _gpus(device: str) -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES is to be for each GPU; "" for one that has no such name."""
    if device == "cpu":
        return []
    from napari_surgsam2.checkpoints import available_devices, resolve_device

    chosen = resolve_device(device)
    if chosen.type == "cpu":
        return []
    if chosen.type != "cuda" or device.startswith("cuda:"):
        return [""]
    count = sum(name.startswith("cuda") for name in available_devices())
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return visible[:count] if len(visible) >= count else [str(number) for number in range(count)]


@contextmanager
def local_client(plan: Plan) -> Iterator[Any]:
    """Start the planned workers, and a client of theirs; all end with the context.

    Raises
    ------
    ClusterError
        If they do not start.
    """
    import dask
    import distributed

    untyped: Any = distributed
    # It tells all users of a package for Jupyter.
    logging.getLogger("distributed.http.proxy").setLevel(logging.WARNING)

    options = {
        "nthreads": 1,  # jobs at once
        "preload": ["napari_surgsam2.batch.worker"],
        "dashboard": False,
        "host": "127.0.0.1",
        "silence_logs": logging.CRITICAL,  # as of `_quiet`: a worker that is ended may miss its scheduler
        # dask counts pages of mapped files, which the system takes back by itself, and would end a worker.
        "memory_limit": 0,
    }
    workers = {
        number: {"cls": untyped.Nanny, "options": {**options, "env": environment}}
        for number, environment in enumerate(plan.environments)
    }
    scheduler = {
        "cls": untyped.Scheduler,
        # A lost worker is told at once: what happens then is decided here, as for a scheduler that is there.
        "options": {"host": "127.0.0.1", "port": 0, "dashboard": False, "allowed_failures": 0},
    }
    with _quiet():
        with dask.config.set({"distributed.scheduler.worker-saturation": 1.0}):
            try:
                cluster = untyped.SpecCluster(workers=workers, scheduler=scheduler)
            except (OSError, RuntimeError, TimeoutError) as error:
                raise ClusterError(f"Local workers do not start: {error}. Try fewer workers.") from error
        # Not the default, or what else is computed with dask meanwhile would be sent there too.
        with cluster, untyped.Client(cluster, set_as_default=False) as client:
            yield client


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep dask from logging what is told as events: lost workers and connections, and what they did."""
    parts = ("scheduler", "nanny", "core", "comm", "client", "batched")
    loggers = [logging.getLogger(f"distributed.{part}") for part in parts]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Return a client of the scheduler at an address; it is closed with the context.

    Raises
    ------
    ClusterError
        If there is no answer.
    """
    import distributed

    untyped: Any = distributed
    try:
        client = untyped.Client(address, timeout=_SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError(
            f"There is no dask scheduler at '{address}' ({error}); give the address that it printed when it "
            "started, such as tcp://10.0.0.5:8786."
        ) from error
    with _quiet(), client:
        yield client
