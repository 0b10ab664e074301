"""The card of a model: what it is, what it was trained on, what its scores mean."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from napari_spatial_ar.datasets.selection import Selection
from napari_spatial_ar.errors import InputError, Notice, StorageError
from napari_spatial_ar.imaging.files import atomic_write_text
from napari_spatial_ar.normative.calibration.acquired import Acquired
from napari_spatial_ar.normative.calibration.calibration import Calibration, PatientPeaks
from napari_spatial_ar.normative.detectors import DETECTORS
from napari_spatial_ar.normative.library import CARD
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.scores import Example
from napari_spatial_ar.review.drawing import (
    BACKGROUND,
    MUTED,
    QUIET,
    Line,
    PanelSize,
    grey_picture,
    line_plot,
    resized,
    to_image,
    with_heat,
    with_outline,
    write_png,
    write_text,
)
from napari_spatial_ar.review.provenance import RESEARCH_USE

__all__ = ["model_facts", "write_model_card"]

# Marks a card written by this program, which it may overwrite.
_MARK = "<!-- written by napari-spatial-ar -->"
_LOSSES, _CALIBRATION, _EXAMPLES = "losses.png", "calibration.png", "examples.png"
_SHARE = 0.01
# For more patients than this the range is given.
_PEAKS_LISTED = 20
_PANEL, _GAP, _HEAD = 240, 10, 40


def write_model_card(model: NormativeModel) -> Path | None:
    """Write ``README.md`` and its figures beside a model that was just fitted or calibrated.

    It begins with the metadata that model hubs read (`huggingface_hub.ModelCard` loads it).
    No patient, file or folder is named. The figures show slices of the calibration if the
    model has them (`NormativeModel.examples`); those of an earlier calibration are removed.

    Parameters
    ----------
    model : NormativeModel
        The model, which has been saved.

    Returns
    -------
    Path or None
        The card; None if a person wrote the existing card, which is not replaced, or if it cannot
        be written. The model works without, so that is a `Notice`.

    Raises
    ------
    InputError
        If the model was never saved.
    """
    if model.folder is None:
        raise InputError("the card is written beside the model, which is not saved yet")
    card = model.folder / CARD
    if card.exists() and _MARK not in card.read_text(encoding="utf-8", errors="replace"):
        return None
    pictures: dict[str, Image.Image] = {}
    history = model.header.training.get("history")
    if history:
        pictures[_LOSSES] = _losses(history, model.detector.loss_unit)
    calibration = model.header.calibration
    if calibration is not None:
        pictures[_CALIBRATION] = _calibration_plot(calibration, model.unit)
        if model.examples:
            pictures[_EXAMPLES] = _examples(model.examples, calibration)
    try:
        for name in (_LOSSES, _CALIBRATION, _EXAMPLES):
            if name in pictures:
                write_png(model.folder / name, pictures[name])
            else:
                (model.folder / name).unlink(missing_ok=True)
        atomic_write_text(card, _text(model, set(pictures)))
    except (StorageError, OSError) as error:
        warnings.warn(f"The model is saved, but not its card: {error}", Notice, stacklevel=2)
        return None
    return card


def _text(model: NormativeModel, pictures: set[str]) -> str:
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        library_name="napari-spatial-ar",
        pipeline_tag="image-segmentation",
        tags=["anomaly-detection", "medical-imaging", model.modality, model.header.method],
        backbone=model.header.backbone.name,
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_body(model, pictures)}"))


def _body(model: NormativeModel, pictures: set[str]) -> str:
    parts = [
        _MARK,
        f"# What normal {_KINDS.get(model.modality, 'slices')} look like",
        "A normative model for `napari-spatial-ar`.",
        f"> {RESEARCH_USE}",
        _table(model),
    ]
    if _LOSSES in pictures:
        parts += ["## Training", f"![Loss of each epoch]({_LOSSES})"]
    if model.header.calibration is not None:
        parts += ["## Calibration", *_calibration(model.header.calibration, model.unit)]
    if _EXAMPLES in pictures:
        parts += [
            "## Held-out normal slices",
            f"![Slices and their heatmaps]({_EXAMPLES})",
            "The middle slice of up to three patients, and last the slice with the highest image "
            f"score of all. Outlined: above the threshold for {_SHARE:.0%} of normal tissue. "
            "Colour begins at the median of normal tissue. These are slices of patients: "
            "`models export --no-pictures` excludes them.",
        ]
    parts += [
        "## Limits",
        "- Normal is what it was trained on: other scanners, sequences, windows, ages or parts of "
        "the body score high although nothing is wrong with them.\n"
        "- It flags what is unusual, not a disease. This card has no figures on labelled scans.",
    ]
    return "\n\n".join(parts) + "\n"


_KINDS = {"mri": "MRI slices", "ct": "CT slices", "oct": "OCT B-scans"}


def _table(model: NormativeModel) -> str:
    lines = [f"| {name} | {text} |" for name, text in model_facts(model).items()]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def model_facts(model: NormativeModel) -> dict[str, str]:
    """Describe a model and its training in words, without what is unknown."""
    header, training = model.header, model.header.training
    window, backbone = header.preprocessing.window, header.backbone
    blocks = ", ".join(map(str, backbone.layers)) or "last"
    detector = DETECTORS.get(header.method)
    rows = {
        "Method": header.method + (f": {detector.summary}" if detector else ""),
        "Settings": ", ".join(_settings(header.parameters)),
        "Backbone": f"`{backbone.name}`, block {blocks}; weights sha256 {backbone.sha256[:16]}",
        "Input": f"{header.preprocessing.size[0]} x {header.preprocessing.size[1]}; window: "
        f"{window.kind} {window.low:g} to {window.high:g}",
        "Scans": _acquired(header.acquired),
        "Slices": _slices(header.selection),
        "Trained on": _count(training, "images", "subjects"),
        "Held out": _count(training, "valid_images", "valid_subjects"),
        "Calibrated on": _count(training, "calibration_images", "calibration_subjects"),
        "Training": _course(model),
        "Heatmap": f"{model.unit}, mean over {header.scoring.smoothing} x "
        f"{header.scoring.smoothing} patches{_across(header.scoring.smoothing_z)}",
        "Image score": _image_score(model),
        "Model file": f"sha256 {model.sha256[:16]}, format {header.format_version}",
        "Made with": ", ".join(f"{k} {v}" for k, v in training.get("versions", {}).items()),
    }
    return {name: text for name, text in rows.items() if text}


def _settings(parameters: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """Name and value of each setting; names of a part of the method are preceded by the part's."""
    for key, value in parameters.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{within}{key}.")
        else:
            yield (
                f"{within}{key} {value:.6g}"
                if isinstance(value, float)
                else f"{within}{key} {value}"
            )


def _acquired(acquired: Acquired | None) -> str:
    """Describe how the scans were acquired, according to their headers."""
    if acquired is None:
        return ""
    agent = {"yes": "with contrast agent", "no": "without contrast agent"}
    parts = [
        " or ".join(acquired.usual("plane")),
        " or ".join(acquired.usual("sequence")),
        " or ".join(agent[value] for value in acquired.usual("contrast_agent")),
        " or ".join(f"{value} kernel" for value in acquired.usual("kernel")),
    ]
    return ", ".join(filter(None, parts))


def _across(sigma: float) -> str:
    """Describe averaging over slices; "" without."""
    return f" and over slices, by a Gaussian of SD {sigma:g} mm" if sigma else ""


def _slices(selection: Selection) -> str:
    """Describe the part of a scan that the model is for; "" if it is all with enough body."""
    if selection == Selection():
        return ""
    low, high = selection.slice_range
    return (
        f"{selection.plane.replace('-', ' ')}, from {low:.0%} to {high:.0%} of the stack, at least "
        f"{selection.min_body:.0%} body"
    )


def _image_score(model: NormativeModel) -> str:
    if model.detector.scores_images:
        return "the method's own"
    share = model.header.scoring.top_share
    return f"mean of the highest {100 * share:g} % of the patches" if share else "the highest patch"


def _count(training: dict[str, object], slices: str, patients: str) -> str:
    if slices not in training:
        return ""
    return f"{training[slices]} normal slices of {_patients(training[patients])}"


def _patients(count: object) -> str:
    return "1 patient" if count == 1 else f"{count} patients"


def _course(model: NormativeModel) -> str:
    training = model.header.training
    parts = [f"seed {training['seed']}"] if "seed" in training else []
    if "epochs" in training:
        parts.append(f"{training['epochs']} epochs")
    if "best_nll" in training:
        best, epoch = training["best_nll"], training["best_epoch"]
        parts.append(
            f"best loss on held-out slices {best:.4f} {model.detector.loss_unit} at epoch {epoch}"
        )
    return ", ".join(parts)


def _calibration(calibration: Calibration, unit: str) -> list[str]:
    """Describe the basis of the thresholds, with a table and a plot."""
    origin = (
        f"including the training patients in {calibration.folds} folds, each scored by a model "
        "trained without it"
        if calibration.folds
        else "not used in the fit"
        if calibration.separate
        else "possibly used to choose the best epoch: other normal scans then score a little higher"
    )
    regions = calibration.regions
    head = "" if regions is None else f" regions a normal {regions.per}, of {regions.scans} |"
    lines = [
        "| share of normal tissue flagged | threshold | lowest to highest patient | at most, on "
        f"average, for the next |{head}",
        f"| --- | --- | --- | --- |{' --- |' if regions else ''}",
    ]
    for share, threshold in zip(calibration.fpr, calibration.thresholds, strict=True):
        own, bound = calibration.fpr_of_patients(threshold), calibration.fpr_bound(threshold)
        between = f"{min(own):.2%} to {max(own):.2%}" if own else "not known"
        promised = "not known" if bound is None else f"{bound:.1%}"
        count = "" if regions is None else f" {regions.count(threshold) or 0:.2g} |"
        lines.append(f"| {share:.1%} | {threshold:.4g} | {between} | {promised} |{count}")
    least = calibration.smallest_p
    return [
        f"On {calibration.slices} slices of {_patients(calibration.patients)}, {origin}. "
        f"Thresholds in {unit}.",
        "\n".join(lines),
        f"![Share of normal tissue above each threshold]({_CALIBRATION})",
        "It gives no p-values."
        if least is None
        else f"P-values of slices and scans are based on {_patients(calibration.patients)}: the "
        f"smallest is {least:.3f}.",
        *([_peaks(calibration.peaks)] if calibration.peaks else []),
    ]


def _peaks(peaks: PatientPeaks) -> str:
    highest = sorted(row[0] for row in peaks.scores)
    listed = ", ".join(f"{score:.4g}" for score in highest)
    if len(highest) > _PEAKS_LISTED:
        low, *_, high = highest
        listed = f"{low:.4g} to {high:.4g}, half of them below {np.median(highest):.4g}"
    return (
        f"The highest score in each patient: {listed}. A flagged region is compared with these, "
        "and with the highest regions of its size."
    )


def _losses(history: dict[str, list[float]], unit: str) -> Image.Image:
    lines = [
        Line(range(1, len(history[key]) + 1), history[key], name=name, **colour)
        for key, name, colour in (
            ("train_nll", "training", {"colour": QUIET}),
            ("valid_nll", "held out", {}),
        )
    ]
    return line_plot(lines, title="Loss", x_label="epoch", y_label=unit)


def _calibration_plot(calibration: Calibration, unit: str) -> Image.Image:
    cuts = calibration.thresholds
    lines = [Line(cuts, shares, QUIET) for shares in calibration.patient_fpr]
    name = f"all of {_patients(calibration.patients)}"
    return line_plot(
        [*lines, Line(cuts, calibration.fpr, name=name)],
        title="Share of normal tissue above a threshold, for each patient and for all",
        x_label=f"threshold, {unit}",
        y_label="share",
        log_y=True,
    )


def _examples(examples: Sequence[Example], calibration: Calibration) -> Image.Image:
    """Rows of slice | heatmap over it, with the outline at 1 % of normal tissue."""
    share = min(max(_SHARE, calibration.fpr[-1]), calibration.fpr[0])
    cut = calibration.threshold_for_fpr(share)
    height = _HEAD + len(examples) * (_PANEL + _GAP)
    page = Image.new("RGB", (2 * _PANEL + 3 * _GAP, height), BACKGROUND)
    draw = ImageDraw.Draw(page)
    for column, head in enumerate(("Slice", "Departure from normal")):
        x = _GAP + column * (_PANEL + _GAP)
        write_text(draw, (x, _HEAD - 8), head, 14, anchor="ls", fill=MUTED)
    for row, example in enumerate(examples):
        rows, columns = example.image.shape
        scale = _PANEL / max(rows, columns)
        size = PanelSize(max(1, round(rows * scale)), max(1, round(columns * scale)))
        base = grey_picture(example.image, size)
        heat = resized(example.nll, size, Image.Resampling.BILINEAR)
        warm = with_outline(with_heat(base, calibration.unit_heat(heat), 0, 1), heat > cut)
        y = _HEAD + row * (_PANEL + _GAP)
        for column, picture in enumerate((base, warm)):
            page.paste(to_image(picture), (_GAP + column * (_PANEL + _GAP), y))
        note = f"score {example.image_score:.3g}"
        write_text(draw, (_GAP + 4, y + size.height - 4), note, 12, anchor="ls")
    return page
