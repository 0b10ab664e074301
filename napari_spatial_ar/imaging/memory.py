"""Whether what a header claims fits into memory, before any is allocated."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

from napari_spatial_ar.errors import InputError

__all__ = ["check_fits", "fits", "free_bytes"]

# Smaller requests are not checked, slice after slice.
_LITTLE = 2**24
# Limit of a container (Linux, versions 2 and 1), and the statistics of its memory in use that
# cannot be reclaimed, unlike the file cache.
_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.stat", "anon"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
        "total_rss",
    ),
)


def free_bytes() -> int:
    """Bytes of memory that this process can still allocate: of the machine, container and user."""
    free = int(psutil.virtual_memory().available)
    for limit, statistics, name in _LIMITS:
        with suppress(OSError, ValueError, KeyError):  # another system, or no limit ("max")
            most = int(Path(limit).read_text())
            known = dict(line.split() for line in Path(statistics).read_text().splitlines())
            free = min(free, most - int(known[name]))
    with suppress(ImportError, OSError, ValueError):  # none on Windows
        import resource

        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            free = min(free, most - psutil.Process().memory_info().vms)
    return max(0, free)


def fits(claimed: int) -> bool:
    """Whether this many bytes are free; 16 MiB always count as free."""
    return claimed <= _LITTLE or claimed <= free_bytes()


def check_fits(claimed: int, path: Path | None) -> None:
    """Refuse what does not fit into the free memory.

    Parameters
    ----------
    claimed : int
        Bytes that will be allocated.
    path : Path, optional
        The file named in the error.

    Raises
    ------
    InputError
        If they are not free.
    """
    if not fits(claimed):
        raise InputError(
            f"needs {_size(claimed)} of memory, and {_size(free_bytes())} are free",
            path=path,
            fix="Close other programs, or use a machine with more memory",
        )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
