"""Options of the commands that can use several processes or machines."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_spatial_ar.cli.options import COMPUTING
from napari_spatial_ar.errors import InputError

if TYPE_CHECKING:
    from napari_spatial_ar.distributed.cluster import Cluster, Tls

__all__ = ["LocalCluster", "Resource", "Scheduler", "TlsFiles", "cluster_of", "listed"]

Scheduler = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        help="Run on the cluster of this dask scheduler, such as tcp://10.0.0.5:8786.",
        show_default=False,
        rich_help_panel=COMPUTING,
    ),
]
LocalCluster = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        help="Run in N processes of this machine; 0: in this one only.",
        rich_help_panel=COMPUTING,
    ),
]
Resource = Annotated[
    str,
    typer.Option(
        "--worker-resource",
        metavar="NAME",
        help="Use only workers that offer this resource, one task per unit: GPU for workers "
        "started with --resources GPU=1.",
        show_default=False,
        rich_help_panel=COMPUTING,
    ),
]
TlsFiles = Annotated[
    str,
    typer.Option(
        "--tls",
        metavar="CA,CERT,KEY",
        help="Certificate files for a tls:// scheduler.",
        show_default=False,
        rich_help_panel=COMPUTING,
    ),
]


@contextmanager
def cluster_of(
    scheduler: str, processes: int, resource: str = "", tls: str = ""
) -> Iterator[Cluster | None]:
    """Connect to the cluster named by the options; None without one."""
    if not scheduler and not processes:
        if resource or tls:
            raise InputError("--worker-resource and --tls belong to a cluster: give --scheduler")
        yield None
        return
    from napari_spatial_ar.distributed.cluster import connect

    with connect(scheduler, processes=processes, resource=resource, tls=_tls_of(tls)) as cluster:
        yield cluster


def _tls_of(text: str) -> Tls | None:
    from napari_spatial_ar.distributed.cluster import Tls

    if not text:
        return None
    paths = [Path(part).expanduser() for part in text.split(",")]
    if len(paths) != 3:
        raise InputError("--tls needs three files: CA,CERT,KEY")
    for path in paths:
        if not path.is_file():
            raise InputError("there is no such file", path=path)
    return Tls(*paths)


_LIST = "Give a text file with one scan on each line"


def _listed_path(line: str) -> Path:
    """Path on a line, without blanks around it unless they belong to the name."""
    return Path(line if os.path.lexists(line) else line.strip())


def listed(inputs: list[Path] | None, file: Path | None) -> list[Path]:
    """Return the inputs of a command, including those listed in a file, one per line.

    Raises
    ------
    InputError
        If the file cannot be read.
    BadParameter
        If there are no inputs.
    """
    found = list(inputs or [])
    if file is not None:
        try:
            data = file.read_bytes().removeprefix(codecs.BOM_UTF8)
        except OSError as error:
            raise InputError("is not a readable list of scans", path=file, fix=_LIST) from error
        if b"\0" in data:
            raise InputError("is no list of scans but another type of file", path=file, fix=_LIST)
        # File names need not be valid text, and may contain what `str.splitlines` would split at.
        lines = [os.fsdecode(line.removesuffix(b"\r")) for line in data.split(b"\n")]
        found += [_listed_path(line) for line in lines if line.strip()]
    if not found:
        raise typer.BadParameter("Give a scan, or a file that lists some.")
    return found
