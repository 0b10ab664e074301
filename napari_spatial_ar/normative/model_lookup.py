"""Where models are: those of the user, and those released with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from napari_spatial_ar.errors import ModelFileError
from napari_spatial_ar.normative import model_file
from napari_spatial_ar.normative.model_file import MODEL_FILE, ModelHeader
from napari_spatial_ar.normative.paths import released_models_dir, user_models_dir

__all__ = ["ModelInfo", "find_model", "list_models"]


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


def list_models() -> list[ModelInfo]:
    """Models in the user's folder and those released with the package; damaged ones left out."""
    found: dict[str, ModelInfo] = {}
    for root in (user_models_dir(), released_models_dir()):
        for path in sorted(root.glob(f"*/{MODEL_FILE}")) if root and root.is_dir() else ():
            if path.parent.name.startswith("."):
                continue  # a copy that is not finished
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


def find_model(path_or_name: str | Path) -> Path:
    """Model file of a path or name, as `load_model` takes it; a damaged file only by its path.

    Raises
    ------
    ModelFileError
        If there is no such model.
    """
    path = Path(path_or_name).expanduser()
    if path.is_dir():
        path = path / MODEL_FILE
    if path.is_file():
        return path
    named = {info.name: info.path for info in list_models()}
    if str(path_or_name) not in named:
        raise ModelFileError(
            f"there is no model '{path_or_name}'",
            fix=f"Give a model's folder, or one of: {', '.join(named) or 'none is installed'}",
        )
    return named[str(path_or_name)]
