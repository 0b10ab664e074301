"""The models at hand as a person sees them: what each is, and whether it can be used."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from napari_spatial_ar.errors import (
    ModelFileError,
    ModelVersionError,
    SpatialARError,
    WeightsError,
)
from napari_spatial_ar.normative import model_file
from napari_spatial_ar.normative.backbones.registry import find_spec
from napari_spatial_ar.normative.library import (
    check_model,
    is_released,
    missing_backbone,
    model_files,
)
from napari_spatial_ar.normative.model import load_model
from napari_spatial_ar.normative.model_file import MODEL_FILE, ModelHeader

__all__ = ["ModelEntry", "State", "check_entry", "list_entries", "read_entry"]

State = Literal["unchecked", "ok", "weights", "version", "damaged"]

_OK = "Its content matches its sha256 and its backbone is on this machine: it can score."
_UNCHECKED = "Its content has not been compared with its sha256 yet: check it."


@dataclass(frozen=True)
class ModelEntry:
    """One model, whole or not.

    Parameters
    ----------
    folder : Path
        Where it lies; its name is the model's.
    released : bool
        Whether it came with the package.
    written : datetime or None
        When its file was written here (UTC); None for a released one.
    header : ModelHeader or None
        What its file says; None where that cannot be read.
    state : {"unchecked", "ok", "weights", "version", "damaged"}
        ``"weights"``: its backbone's weights are missing, or are others. ``"version"``: it needs
        another version of this program.
    advice : str
        The state in a sentence or two, with what to do.
    """

    folder: Path
    released: bool
    written: datetime | None
    header: ModelHeader | None
    state: State
    advice: str

    @property
    def name(self) -> str:
        """The model's name."""
        return self.folder.name

    @property
    def file(self) -> Path:
        """The model file."""
        return self.folder / MODEL_FILE


def list_entries() -> list[ModelEntry]:
    """Every model of the user's and then every released one, as `read_entry` sees them."""
    return [read_entry(file.parent) for file in model_files()]


def read_entry(folder: Path) -> ModelEntry:
    """Look at a model's header alone: fast, and ``"unchecked"`` at best."""
    return _entry(folder, lambda header: _needs(header) or ("unchecked", _UNCHECKED))


def check_entry(folder: Path, *, weights: bool = False) -> ModelEntry:
    """Read a model whole and compare it with its sha256.

    Parameters
    ----------
    folder : Path
        The model's.
    weights : bool
        Whether to load its backbone too, if it is at hand, and compare the weights' sha256.
    """

    def judge(header: ModelHeader) -> tuple[State, str]:
        check_model(folder / MODEL_FILE)
        needs = _needs(header)
        if needs is None and weights:
            _ = load_model(folder, device="cpu").backbone  # raises where it is another
        return needs or ("ok", _OK)

    return _entry(folder, judge)


def _entry(folder: Path, judge: Callable[[ModelHeader], tuple[State, str]]) -> ModelEntry:
    file, released = folder / MODEL_FILE, is_released(folder)
    written = header = None
    if not released:
        with suppress(OSError):  # deleted at this moment
            written = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    try:
        header, _ = model_file.read_header(file)
        state, advice = judge(header)
    except ModelVersionError as error:
        state, advice = "version", _said(error)
    except WeightsError as error:
        state, advice = "weights", _said(error)
    except ModelFileError as error:
        state, advice = "damaged", f"{_capital(error.what)}. {_repair(released)}"
    return ModelEntry(folder, released, written, header, state, advice)


def _needs(header: ModelHeader) -> tuple[State, str] | None:
    needs = missing_backbone(header)
    if needs is None:
        return None
    return ("weights" if find_spec(header.backbone.name) else "version"), needs


def _repair(released: bool) -> str:
    if released:
        return "Install napari-spatial-ar again."
    return "Delete it, and import it again from where it came from, or fit it again."


def _said(error: SpatialARError) -> str:
    """Give an error's sentence without its path, which the reader of a list does not need."""
    return _capital(str(type(error)(error.what, fix=error.fix)))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
