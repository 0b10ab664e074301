"""Where models are: those of the user, and those released with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from napari_spatial_ar.errors import ModelFileError
from napari_spatial_ar.normative import model_file
from napari_spatial_ar.normative.model_file import MODEL_FILE, ModelHeader
from napari_spatial_ar.paths import released_models_dir, user_models_dir

__all__ = ["ModelInfo", "find_model", "list_models", "model_files", "unreadable_models"]


@dataclass(frozen=True)
class ModelInfo:
    """One line of a list of models."""

    name: str
    path: Path
    modality: str
    backbone: str
    method: str
    summary: str
    header: ModelHeader | None = None


def model_files() -> list[Path]:
    """Model file of every model, whole or not: the user's and then those released.

    What else lies in the user's folder, or cannot be looked into, is passed over.
    """
    found = []
    for root in (user_models_dir(), released_models_dir()):
        try:
            folders = sorted(root.iterdir()) if root and root.is_dir() else []
        except OSError:
            continue
        # Those that begin with a dot are copies that are not finished, or the trash.
        found += [f / MODEL_FILE for f in folders if not f.name.startswith(".") and _holds(f)]
    return found


def _holds(folder: Path) -> bool:
    try:
        return (folder / MODEL_FILE).exists()
    except OSError:  # a folder that may not be looked into
        return False


def list_models() -> list[ModelInfo]:
    """Models in the user's folder and those released with the package; damaged ones left out."""
    found: dict[str, ModelInfo] = {}
    for path in model_files():
        try:
            header, _ = model_file.read_header(path)
        except ModelFileError:
            continue
        training = header.training
        found.setdefault(
            path.parent.name,
            ModelInfo(
                name=path.parent.name,
                path=path,
                modality=header.modality,
                backbone=header.backbone.name,
                method=header.method,
                summary=f"{training.get('images', '?')} slices of "
                f"{training.get('subjects', '?')} patients",
                header=header,
            ),
        )
    return list(found.values())


def unreadable_models() -> list[tuple[Path, str]]:
    """Model files that `list_models` leaves out, and why."""
    found = []
    for path in model_files():
        try:
            model_file.read_header(path)
        except ModelFileError as error:
            found.append((path, str(error)))
    return found


def find_model(path_or_name: str | Path) -> Path:
    """Model file of a path or name, as `load_model` takes it; it may be damaged.

    Raises
    ------
    ModelFileError
        If there is no such model.
    """
    path = Path(path_or_name).expanduser()
    try:
        if path.is_dir():
            path = path / MODEL_FILE
        if path.is_file():
            return path
    except (OSError, ValueError):  # of names that can be none
        pass
    named: dict[str, Path] = {}
    for file in model_files():
        named.setdefault(file.parent.name, file)
    if str(path_or_name) not in named:
        whole = ", ".join(info.name for info in list_models())
        raise ModelFileError(
            f"there is no model '{path_or_name}'",
            fix=f"Give a model's folder, or one of: {whole or 'none is installed'}",
        )
    return named[str(path_or_name)]
