"""The methods of a comparison: models of several seeds that count as one, given or fitted here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.evaluation.scorer import Scorer
from napari_spatial_ar.imaging.files import atomic_write_json
from napari_spatial_ar.imaging.json_text import parse_json
from napari_spatial_ar.normative.backbones.weights import spec_of
from napari_spatial_ar.normative.detectors import DETECTORS
from napari_spatial_ar.normative.fitting.config import NETWORK_SETTINGS, FitConfig, read_settings
from napari_spatial_ar.normative.fitting.fit import fit
from napari_spatial_ar.normative.fitting.plan import FitProgress
from napari_spatial_ar.normative.model import NormativeModel, load_model
from napari_spatial_ar.normative.model_file import MODEL_FILE

__all__ = [
    "ComparedMethod",
    "check_method",
    "describe_method",
    "fit_method",
    "folder_name",
    "grouped",
    "record",
    "recorded_seconds",
]

_SEED = re.compile(r"[-_ .]*(?:seed|s)?[-_ .]?\d+$", re.IGNORECASE)
_RECORD = "fit.json"


@dataclass(frozen=True)
class ComparedMethod:
    """One method.

    Parameters
    ----------
    name : str
        Its name in reports.
    models : tuple of Scorer
        One per seed.
    notes : tuple of str
        What a reader of its figures has to know, a sentence each.
    """

    name: str
    models: tuple[Scorer, ...]
    notes: tuple[str, ...] = ()

    @property
    def fit_seconds(self) -> tuple[float | None, ...]:
        """Seconds that each model took to learn after embedding, if they were measured."""
        return tuple(model.header.training.get("seconds") for model in self.models)


def grouped(models: Sequence[NormativeModel]) -> list[ComparedMethod]:
    """Group models whose names differ only in a final number, as seeds of one method.

    Parameters
    ----------
    models : sequence of NormativeModel
        ``dilated-seed0`` and ``dilated-seed1`` are two seeds of ``dilated``. A number counts as a
        seed only if another model has the same name before it and the same method.

    Raises
    ------
    InputError
        If a model is given twice.
    """
    digests = [model.sha256 for model in models]
    for number, model in enumerate(models):
        if model.sha256 and model.sha256 in digests[:number]:
            raise InputError(f"the model '{model.name}' is given twice")
    stems: dict[tuple[str, str], list[NormativeModel]] = {}
    for model in models:
        stem = _SEED.sub("", model.name) or model.name
        stems.setdefault((stem, model.header.method), []).append(model)
    methods, taken = [], set[str]()
    for (stem, _), together in stems.items():
        name = stem if len(together) > 1 else together[0].name
        name = name if name not in taken else f"{name} ({together[0].header.method})"
        taken.add(name)
        methods.append(ComparedMethod(name, tuple(together)))
    return methods


def check_method(method: str, **settings: object) -> None:
    """Check that a method and its settings can be used; the parameters are those of `fit_method`.

    Nothing is read or loaded, so that all methods can be checked before the first is fitted.

    Raises
    ------
    InputError
        If a setting is unknown, of another type or out of range.
    """
    _, wanted = _read(method, settings)
    known = {*FitConfig.model_fields, *NETWORK_SETTINGS}
    config = FitConfig.of((), **{name: v for name, v in wanted.items() if name in known})
    if not config.backbone.startswith("pixels"):
        spec_of(config.backbone)


def fit_method(
    root: str | Path,
    method: str,
    seeds: Sequence[int],
    folder: Path,
    *,
    progress: Callable[[FitProgress], None] | None = None,
    **settings: object,
) -> ComparedMethod:
    """Fit a method on a dataset once for each seed, or load models fitted by an earlier run.

    Parameters
    ----------
    root : path
        Dataset in the BMAD layout.
    method : str
        A key of `DETECTORS`, optionally followed by a colon and options of its own or settings of
        `FitConfig`: ``spatial-ar:dilation=1,epochs=20``.
    seeds : sequence of int
        One model per seed.
    folder : Path
        Where to store the models, one folder each.
    progress : callable, optional
        See `fit`.
    **settings
        For `fit`; those after the colon take precedence.

    Raises
    ------
    InputError
        If a setting is unknown or not a number where one is needed, or a folder contains a model
        of other settings.
    """
    label, wanted = _read(method, settings)
    models = [
        _fit_once(root, folder / folder_name(label, seed), {**wanted, "seed": seed}, progress)
        for seed in seeds
    ]
    return ComparedMethod(label, tuple(models))


def _read(method: str, settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the label of a method, and keyword arguments of `fit` for it."""
    name, _, text = method.partition(":")
    if name not in DETECTORS:
        raise InputError(f"there is no method '{name}'", fix=f"Choose: {', '.join(DETECTORS)}")
    options = DETECTORS[name].options()
    known = set(FitConfig.model_fields) - {"folders", "method", "options", "seed"}
    own = read_settings(text, [*options, *sorted(known), *NETWORK_SETTINGS])
    chosen = {key: value for key, value in own.items() if key in options}
    others = {key: value for key, value in own.items() if key not in options}
    wanted = {**settings, **others, "method": name, "options": chosen}
    return describe_method(name, own), wanted


def folder_name(label: str, seed: int) -> str:
    """Name of the folder of one seed's model."""
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', label).strip('-')}-seed{seed}"


def describe_method(name: str, settings: dict[str, Any]) -> str:
    """Format a method's name with its settings, for reports."""
    values = {k: v if isinstance(v, str) else json.dumps(v) for k, v in settings.items()}
    return " ".join([name, *(f"{key}={value}" for key, value in values.items())])


def _fit_once(
    root: str | Path,
    out: Path,
    wanted: dict[str, Any],
    progress: Callable[[FitProgress], None] | None,
) -> NormativeModel:
    asked = {key: str(value) for key, value in sorted(wanted.items()) if key != "device"}
    asked["data set"] = Path(root).resolve().name
    where = {key: wanted[key] for key in ("weights", "device") if wanted.get(key) is not None}
    if (out / MODEL_FILE).is_file():
        recorded_seconds(out, asked)
        return load_model(out, **where)
    record(out, asked)  # before the model, so that the settings of every model are known
    model = fit(root, progress=progress, out=out, **wanted)
    record(out, asked, model.header.training["seconds"])
    return model


@dataclass(frozen=True)
class _Fitted:
    """The record beside a model: the settings of its fit, as text, and its duration."""

    settings: dict[str, str]
    seconds: float | None


def record(out: Path, settings: dict[str, str], seconds: float | None = None) -> None:
    """Write the settings and the time of a fit beside its model."""
    atomic_write_json(out / _RECORD, asdict(_Fitted(settings, seconds)))


def recorded_seconds(out: Path, settings: dict[str, str]) -> float:
    """Time of the fit of an existing model.

    Raises
    ------
    InputError
        If it was fitted with other settings.
    """
    path = out / _RECORD
    try:
        known = parse_json(path.read_bytes(), _Fitted)
    except (OSError, ValueError):
        known = None
    if known is None or known.settings != settings:
        raise InputError(
            "the model here was fitted with other settings",
            path=out,
            fix="Choose another folder for the results, or delete this one",
        )
    # Missing if the fit was killed after the model was written.
    return float("nan") if known.seconds is None else known.seconds
