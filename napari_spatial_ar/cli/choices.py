"""Values of options: enums, and names for shell completion.

Nothing here imports torch: help and completion have to be instant. If names are defined elsewhere
too, a test checks that they are equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path

from napari_spatial_ar.paths import (
    embedded_weights,
    released_models_dir,
    user_models_dir,
    weights_dir,
)

__all__ = [
    "ANOMALIB_NAMES",
    "BACKBONE_NAMES",
    "METHOD_NAMES",
    "ContextName",
    "EngineName",
    "FuseName",
    "Modality",
    "PaperName",
    "PlaneName",
    "SplitName",
    "complete_anomalib",
    "complete_backbone",
    "complete_device",
    "complete_method",
    "complete_model",
    "complete_own_model",
]


class Modality(StrEnum):
    """Modalities that models are made for."""

    mri = "mri"
    ct = "ct"
    oct = "oct"


class PlaneName(StrEnum):
    """Planes along which volumes are sliced."""

    as_acquired = "as-acquired"
    axial = "axial"
    coronal = "coronal"
    sagittal = "sagittal"


class ContextName(StrEnum):
    """What the autoregressive network sees of a patch's neighbourhood."""

    causal = "causal"
    bidirectional = "bidirectional"


class FuseName(StrEnum):
    """How several blocks form one embedding."""

    concat = "concat"
    mean = "mean"


class SplitName(StrEnum):
    """Labelled splits of a dataset in the BMAD layout."""

    test = "test"
    valid = "valid"


class EngineName(StrEnum):
    """Engines that compute the backbone."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    compiled = "compiled"
    openvino = "openvino"
    openvino_bfloat16 = "openvino-bfloat16"
    openvino_int8 = "openvino-int8"


class PaperName(StrEnum):
    """Paper of PDF reports."""

    a4 = "A4"
    letter = "Letter"


#: Keys of `napari_spatial_ar.normative.detectors.DETECTORS`.
METHOD_NAMES = (
    "spatial-ar-change",
    "spatial-ar",
    "change-novelty",
    "memory-bank",
    "patch-gaussian",
    "dpmm",
    "himatch-ad",
    "dinomaly",
    "utrad",
    "surroundings-bank",
    "synthetic-change",
)
#: Keys of `napari_spatial_ar.normative.backbones.registry.BACKBONES`.
BACKBONE_NAMES = (
    *(f"dinov3_{size}" for size in ("vits16", "vits16plus", "vitb16", "vitl16", "vith16plus")),
    "dinov3_vit7b16",
    *(f"dinov3_convnext_{size}" for size in ("tiny", "small", "base", "large")),
    *(f"dinov2_vit{size}14" for size in "sblg"),
    *(f"dinov2_vit{size}14_reg4" for size in "sblg"),
    "dinov2_vits14_focus",
)
#: Keys of `napari_spatial_ar.evaluation.anomalib_models.METHODS`.
ANOMALIB_NAMES = ("patchcore", "padim", "reverse-distillation", "stfpm", "cfa", "cflow", "draem")

_WEIGHTS = ".safetensors"
Completions = list[tuple[str, str]]


def complete_model(incomplete: str) -> Completions:
    """Models by name: the user's, then those of the package."""
    released = dict.fromkeys(_models_in(released_models_dir()), "comes with the package")
    return _begun(incomplete, {**released, **dict(_own_models())}.items())


def complete_own_model(incomplete: str) -> Completions:
    """Complete the user's models, which can be renamed and deleted."""
    return _begun(incomplete, _own_models())


def complete_backbone(incomplete: str) -> Completions:
    """Backbones by name, including the user's own; installed ones come first."""
    files = [path.name for path in _inside(weights_dir())]
    own = [name.removesuffix(_WEIGHTS) for name in files if name.endswith(_WEIGHTS)]
    embedded = embedded_weights()
    ready = {*own, embedded.parent.name if embedded else ""}
    ready |= {name for name in BACKBONE_NAMES for file in files if file.startswith(f"{name}_pre")}
    names = dict.fromkeys((*BACKBONE_NAMES, *sorted(own)))
    found = [(name, "installed" if name in ready else "not installed") for name in names]
    return _begun(incomplete, sorted(found, key=lambda pair: pair[1]))


def complete_method(incomplete: str) -> Completions:
    """Methods by name; settings after a colon are not completed."""
    return _begun(incomplete, [(name, "") for name in METHOD_NAMES])


def complete_anomalib(incomplete: str) -> Completions:
    """Methods of anomalib by name."""
    return _begun(incomplete, [(name, "") for name in ANOMALIB_NAMES])


def complete_device(incomplete: str) -> Completions:
    """Where torch computes."""
    return _begun(incomplete, [(name, "") for name in ("auto", "cpu", "cuda", "mps")])


def _begun(incomplete: str, known: Iterable[tuple[str, str]]) -> Completions:
    return [pair for pair in known if pair[0].startswith(incomplete)]


def _own_models() -> Completions:
    return [(name, "yours") for name in _models_in(user_models_dir())]


def _models_in(folder: Path | None) -> list[str]:
    found = (path for path in _inside(folder) if not path.name.startswith("."))
    return sorted(path.name for path in found if (path / "model.safetensors").is_file())


def _inside(folder: Path | None) -> Iterator[Path]:
    """List the contents of a folder; nothing if it cannot be read."""
    try:
        yield from folder.iterdir() if folder else ()
    except OSError:
        return
