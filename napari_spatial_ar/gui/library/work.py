"""What the dialog of models does in workers; torch is imported here, when it is first needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from napari_spatial_ar.steps import until_stopped

__all__ = [
    "Comparison",
    "calibrate",
    "compare",
    "delete",
    "duplicate",
    "export",
    "import_checkpoint",
    "import_file",
    "look",
    "once",
    "recheck",
    "rename",
    "restore",
    "trashed",
]

# Larger models are compared with their sha256 on demand alone: some would fill the memory.
_CHECKED_UNASKED = 512 << 20

Work = Generator[Any, None, Any]


def once(act: Callable[..., Any], *arguments: Any) -> Callable[[threading.Event], Work]:
    """Make a worker's task of one call that cannot be stopped."""

    def work(stop: threading.Event) -> Work:
        yield
        return act(*arguments)

    return work


def look(stop: threading.Event) -> Work:
    """Yield the list of ``ModelEntry``, and then one by one those that were read whole."""
    from napari_spatial_ar.normative.catalogue import check_entry, list_entries

    entries = list_entries()
    yield entries
    for entry in entries:
        if stop.is_set():
            return
        if entry.state in ("unchecked", "weights") and _size(entry.file) <= _CHECKED_UNASKED:
            yield check_entry(entry.folder)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # deleted at this moment
        return 0


def recheck(folder: Path) -> Any:
    """``ModelEntry`` of a model that was read whole, its backbone's weights too."""
    from napari_spatial_ar.normative.catalogue import check_entry

    return check_entry(folder, weights=True)


def rename(name: str, new_name: str) -> str:
    """Rename a model; see `library.rename_model`."""
    from napari_spatial_ar.normative.library import rename_model

    return rename_model(name, new_name).name


def duplicate(folder: Path, new_name: str) -> str:
    """Copy a model; see `library.duplicate_model`."""
    from napari_spatial_ar.normative.library import duplicate_model

    return duplicate_model(folder, new_name).name


def delete(name: str) -> str:
    """Move a model to the trash; see `library.delete_model`."""
    from napari_spatial_ar.normative.library import delete_model

    delete_model(name)
    return name


def restore(name: str, new_name: str) -> str:
    """Take a model out of the trash; see `library.restore_model`."""
    from napari_spatial_ar.normative.library import restore_model

    return restore_model(name, new_name).name


def trashed() -> list[Any]:
    """List deleted models; see `library.trashed_models`."""
    from napari_spatial_ar.normative.library import trashed_models

    return trashed_models()


def export(folder: Path, target: Path, pictures: bool) -> str:
    """Write a model as one file, in place of any of this name; see `archive.export_model`."""
    from napari_spatial_ar.normative.archive import export_model

    return str(export_model(folder, target, pictures=pictures, overwrite=True))


def import_file(source: Path, name: str) -> Any:
    """Take a model in, under its own name where none is given; see `importing.import_model`.

    Returns
    -------
    str or ReferenceCheckpoint
        Its name; of a checkpoint of the paper's authors what it says, for the rest must be asked.
    """
    from napari_spatial_ar.normative.importing import import_model, is_reference_checkpoint
    from napari_spatial_ar.normative.reference_checkpoint import read_reference_checkpoint

    if is_reference_checkpoint(source):
        return read_reference_checkpoint(source)
    return import_model(source, name or None).parent.name


def import_checkpoint(source: Path, choices: dict[str, Any], name: str) -> str:
    """Make a model of a checkpoint; see `importing.import_reference`."""
    from napari_spatial_ar.normative.importing import import_reference

    return import_reference(source, name, **choices).parent.name


def calibrate(folder: Path, normals: Path, name: str) -> Callable[[threading.Event], Work]:
    """Make a task that calibrates the user's model ``name``, or a new copy of that name.

    It yields (what is done, slices done, slices in all) at times, and gives the name; None where
    it was stopped. See `calibrating.recalibrate_steps`.
    """

    def work(stop: threading.Event) -> Work:
        from napari_spatial_ar.normative.calibration.calibrate import recalibrate_steps
        from napari_spatial_ar.normative.library import free_folder
        from napari_spatial_ar.review.model_card import write_model_card

        yield
        out = None if name == folder.name else free_folder(name)
        steps = recalibrate_steps(folder, normals, out=out)
        calibrated = yield from until_stopped(stop, steps, news=itemgetter(0))
        if calibrated is None:
            return None
        write_model_card(calibrated)
        return calibrated.name

    return work


@dataclass(frozen=True)
class Comparison:
    """A finished comparison.

    Parameters
    ----------
    result : ModelComparison
        Figures; its files are gone.
    png : bytes
        The picture.
    """

    result: Any
    png: bytes


def compare(stop: threading.Event, first: Path, second: Path, volume: Any) -> Work:
    """Score a scan with two models, yielding (model, slices done, slices in all) at times.

    Returns
    -------
    Comparison or None
        None where it was stopped.
    """
    from napari_spatial_ar.normative.model import load_model
    from napari_spatial_ar.review.model_comparison import comparison_steps

    yield
    one, other = load_model(first), load_model(second)
    if one.header.backbone == other.header.backbone:
        # Once is enough: a large one fills a small workstation.
        other.backbone = one.backbone
    with TemporaryDirectory() as folder:
        steps = comparison_steps(one, other, volume, folder)
        result = yield from until_stopped(stop, steps, news=itemgetter(0))
        return result and Comparison(result, result.files["png"].read_bytes())
