"""Access to the model code, imported on first use: importing torch takes seconds."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.fitting.config import DEFAULT_METHOD, FitConfig
from napari_spatial_ar.normative.scoring_model import ScoringModel

if TYPE_CHECKING:
    from torch import Tensor

    from napari_spatial_ar.normative.detectors.base import Detector
    from napari_spatial_ar.normative.explaining import EmbeddedSlice
    from napari_spatial_ar.normative.fitting.neighbours import Neighbour
    from napari_spatial_ar.normative.fitting.outliers import Outliers
    from napari_spatial_ar.normative.fitting.plan import FitProgress
    from napari_spatial_ar.normative.library import ModelEntry
    from napari_spatial_ar.normative.model import NormativeModel
    from napari_spatial_ar.normative.model_file import ModelHeader


__all__ = [
    "ModelEvents",
    "WeightsNews",
    "WeightsOffer",
    "backbone_names",
    "backbones_with",
    "choose_engine",
    "default_note",
    "embed_plane",
    "estimate_steps",
    "fit_steps",
    "known_backbones",
    "list_models",
    "load_model",
    "methods",
    "model_events",
    "named_by",
    "outlier_steps",
    "patch_of",
    "read_dilations",
    "read_recipe",
    "similar_steps",
    "unfinished_dir",
    "user_models_dir",
    "usual_normalisation",
    "weights_advice",
    "weights_hint",
    "weights_missing",
    "weights_news",
    "weights_offers",
    "write_recipe",
]

_loaded: dict[tuple[str, int], NormativeModel] = {}
_loading = threading.Lock()


class WeightsNews(QObject):
    """Notifies every dock of new weights."""

    #: Name of the backbone whose weights are on this machine now.
    changed = Signal(str)


class ModelEvents(QObject):
    """Notifies every dock of changed models."""

    #: A model was made or removed.
    changed = Signal()
    #: A model's old and new name; `changed` follows.
    renamed = Signal(str, str)


#: The one channel between the docks and the dialog of models.
model_events = ModelEvents()
#: The one channel between the dialogs of weights and all that need weights.
weights_news = WeightsNews()


def list_models() -> list[ModelEntry]:
    """Released and own models: ``ModelEntry`` of each that can be chosen."""
    from napari_spatial_ar.normative.library import list_models as find

    return list(find())


def load_model(path: str | Path) -> NormativeModel:
    """Load a model from its folder; cached until its file changes.

    Raises
    ------
    ModelFileError, WeightsError
        If the model or its backbone cannot be used.
    """
    from napari_spatial_ar.normative.model import load_model as load

    with _loading:
        key = (str(path), _stamp(Path(path)))
        if key not in _loaded:
            # One model at a time: a large backbone takes much of a small workstation's memory.
            _loaded.clear()
            _loaded[key] = load(path)
        return _loaded[key]


def choose_engine(model: ScoringModel) -> None:
    """Switch a model to its fastest engine, measured once per machine; in a worker."""
    from napari_spatial_ar.normative.backbones import fastest_engine
    from napari_spatial_ar.normative.model import NormativeModel

    if isinstance(model, NormativeModel):
        fastest_engine.choose_engine(model)


def _stamp(path: Path) -> int:
    file = path / "model.safetensors" if path.is_dir() else path
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def fit_steps(
    config: FitConfig, *, out: Path, overwrite: bool
) -> Generator[FitProgress, None, Path]:
    """Train step by step, and write the model's card; see `fit.fit_steps`.

    Returns
    -------
    Path
        The model's folder: the model itself would keep its backbone in memory.
    """
    from napari_spatial_ar.normative.fitting.fit import fit_steps as fit
    from napari_spatial_ar.normative.memory import release
    from napari_spatial_ar.review.model_card import write_model_card

    model = yield from fit(config, out=out, overwrite=overwrite)
    write_model_card(model)
    del model
    release()
    return out


def estimate_steps(config: FitConfig, *, out: Path) -> Generator[FitProgress, None, str]:
    """Estimate how long a fit will take; see `estimate.estimate_steps`.

    Returns
    -------
    str
    """
    from napari_spatial_ar.normative.fitting import estimate

    found = yield from estimate.estimate_steps(config, out=out)
    return f"{found} Not counted: {estimate.NOT_COUNTED}."


def read_recipe(path: str | Path) -> FitConfig:
    """Read a recipe; see `recipe.read_recipe`."""
    from napari_spatial_ar.normative.fitting.recipe import read_recipe as read

    return read(path)


def write_recipe(path: str | Path, config: FitConfig) -> None:
    """Write a recipe; see `recipe.write_recipe`."""
    from napari_spatial_ar.normative.fitting.recipe import write_recipe as write

    write(path, config)


def embed_plane(model: ScoringModel, volume: Scan, index: int) -> EmbeddedSlice:
    """Embed a slice; see `explaining.embed_plane`."""
    from napari_spatial_ar.normative.explaining import embed_plane as embed

    return embed(model, volume, index)


def similar_steps(
    model: ScoringModel, folders: Sequence[str | Path], query: Tensor
) -> Generator[FitProgress, None, tuple[Neighbour, ...]]:
    """Find the most similar normal patches; see `neighbours.similar_patches`."""
    from napari_spatial_ar.normative.fitting.neighbours import similar_patches

    return (yield from similar_patches(model, folders, query))


def outlier_steps(
    model: Path, folders: Sequence[str | Path]
) -> Generator[FitProgress, None, Outliers]:
    """Rank the scans that a model was fitted on; see `outliers.find_outliers`."""
    from napari_spatial_ar.normative.fitting.outliers import find_outliers

    return (yield from find_outliers(load_model(model), folders))


def methods() -> list[type[Detector]]:
    """Methods, subclasses of ``Detector``; first the default of a fit."""
    from napari_spatial_ar.normative.detectors import DETECTORS

    return sorted(DETECTORS.values(), key=lambda m: (m.name != DEFAULT_METHOD, m.title.lower()))


def backbone_names() -> list[tuple[str, bool]]:
    """Backbones and whether their weights are installed; the default of a fit comes first."""
    from napari_spatial_ar.normative.backbones.weights import default_backbone, list_weights

    default = default_backbone()
    found = [(w.name, w.at_hand) for w in list_weights()]
    return sorted(found, key=lambda pair: (pair[0] != default, not pair[1]))


def backbones_with(channels: int) -> list[tuple[str, bool]]:
    """Backbones whose embeddings have this many channels; see `backbone_names`."""
    from napari_spatial_ar.normative.backbones.registry import find_spec

    found = [(find_spec(name), present) for name, present in backbone_names()]
    return [
        (spec.name, present)
        for spec, present in found
        if spec is not None and spec.channels == channels
    ]


def patch_of(backbone: str) -> int:
    """Side of a backbone's patches, in pixels."""
    from napari_spatial_ar.normative.backbones.weights import spec_of

    return int(spec_of(backbone).patch)


def read_dilations(text: str, layers: int) -> list[int]:
    """Dilation of each layer; see `reference_checkpoint.read_dilations` and `layer_dilations`."""
    from napari_spatial_ar.normative import reference_checkpoint

    return reference_checkpoint.layer_dilations(reference_checkpoint.read_dilations(text), layers)


def known_backbones() -> list[str]:
    """Names of the backbones whose weights can be added under them."""
    from napari_spatial_ar.normative.backbones.registry import BACKBONES, OFFLINE_BACKBONE

    return [name for name in BACKBONES if name != OFFLINE_BACKBONE]


def named_by(path: Path) -> str | None:
    """Backbone that a file of weights is named after; see `weights.named_by`."""
    from napari_spatial_ar.normative.backbones.weights import named_by as named

    return named(path)


def usual_normalisation() -> tuple[str, str]:
    """Mean and standard deviation of ImageNet, formatted for fields."""
    from napari_spatial_ar.normative.backbones.registry import IMAGENET_MEAN, IMAGENET_STD

    return ", ".join(map(str, IMAGENET_MEAN)), ", ".join(map(str, IMAGENET_STD))


@dataclass(frozen=True)
class WeightsOffer:
    """Weights that can be downloaded.

    Parameters
    ----------
    name, licence : str
        The backbone and the licence of its weights.
    repositories : tuple of str
        Its repositories on the model hub; empty for weights that come through pip.
    gated : bool
        Whether the first requires acceptance of a licence and the second does not.
    """

    name: str
    licence: str
    repositories: tuple[str, ...]
    gated: bool


def weights_offers(wanted: str = "") -> list[WeightsOffer]:
    """List weights that can be downloaded and are not on this machine, and the requested ones.

    Of requested weights some blocks may be installed.
    """
    from napari_spatial_ar.normative.backbones.registry import BACKBONES
    from napari_spatial_ar.normative.backbones.weights import at_hand

    return [
        WeightsOffer(spec.name, spec.licence, spec.hub, len(spec.hub) > 1)
        for spec in BACKBONES.values()
        if spec.name == wanted or not at_hand(spec)
    ]


def weights_hint(backbone: str, header: ModelHeader | None = None) -> str:
    """State that a backbone's weights are missing; "" if they are installed.

    Parameters
    ----------
    backbone : str
        Its name.
    header : ModelHeader, optional
        Header of a model, which may need more blocks than other models.
    """
    from napari_spatial_ar.normative.library import missing_backbone

    present = dict(backbone_names()).get(backbone, header is None)
    if present and (header is None or missing_backbone(header) is None):
        return ""
    return weights_missing(backbone)


def weights_missing(backbone: str) -> str:
    """State that a backbone's weights are missing."""
    return f"The weights of {backbone} are not on this machine."


def weights_advice(backbone: str) -> str:
    """Explain how to get a backbone's weights with the command line."""
    from napari_spatial_ar.normative.backbones.weights import how_to_get, spec_of

    return how_to_get(spec_of(backbone))


def default_note(backbone: str) -> str:
    """Explain why a backbone is the default of fits; "" for any other, and for DINOv3."""
    from napari_spatial_ar.normative.backbones.registry import DEFAULT_BACKBONE, OFFLINE_BACKBONE
    from napari_spatial_ar.normative.backbones.weights import default_backbone

    if not backbone == default_backbone() == OFFLINE_BACKBONE:
        return ""
    return f"It comes with the package. {DEFAULT_BACKBONE} is preferred if installed."


def user_models_dir() -> Path:
    """Folder of the user's own models."""
    from napari_spatial_ar.paths import user_models_dir as folder

    return folder()


def unfinished_dir() -> Path:
    """Folder of the recipe of the last unfinished fit."""
    from napari_spatial_ar.paths import unfinished_dir as folder

    return folder()
