"""How much closer *Refine* brings outlines to lesions drawn by hand.

python benchmarks/refine.py DATASET VOLUMES [--model brain-flair] [--cache DIR] [--tune]
    [--json FILE] [--machine NAME]

DATASET is in the BMAD layout, its images named PATIENT_SLICE.png; its abnormal images are refined
in 2-D. VOLUMES has a folder for each patient, with flair.nii.gz and one other file, the mask of
lesions, refined in 3-D. Everything is at the model's default threshold, and every flagged region is
refined, false ones too, as *Refine all* does. Dice of slices is over all pixels of all abnormal
slices of the split, with 95 % intervals from 1,000 draws of patients; that of a volume is over its
voxels, and once more of the regions alone that share a voxel with a lesion.

Scores are kept in --cache by the model's sha256, since they take most of the time. --tune prints
the figures of several parameters on valid instead; test and volumes are left alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import napari_spatial_ar as nsar
from napari_spatial_ar.datasets.folders import bmad_items
from napari_spatial_ar.evaluation.bootstrap import draw_weights, interval
from napari_spatial_ar.evaluation.candidates import label_of
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.raster import read_raster
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.windows import apply_window, resolve
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.review.findings import label_components
from napari_spatial_ar.review.masks import make_mask
from napari_spatial_ar.review.refining import RefineSettings, Unrefined, refine_region

SHARE, DRAWS = 0.01, 1000


@dataclass(frozen=True)
class Case:
    """A slice or scan with scores: all arrays are (Z, Y, X)."""

    patient: str
    geometry: Geometry
    voxels: np.ndarray
    scores: np.ndarray
    scored: np.ndarray
    body: np.ndarray
    truth: np.ndarray


def slices(model: NormativeModel, root: Path, split: str, cache: Path) -> Iterator[Case]:
    """Yield the abnormal slices of a split."""
    for item in bmad_items(root, split):
        image, kind = read_raster(item.image)
        truth = np.asarray(label_of(item, image.shape)) > 0
        if not truth.any():
            continue
        ends = resolve(model.header.preprocessing.window, image, kind)
        kept = cache / f"{split}-{item.image.stem}.npy"
        if not kept.exists():
            np.save(kept, model.score_slice(image, window=ends).nll)
        body = tissue_mask(apply_window(image, *ends))
        arrays = (image.astype(np.float32), np.load(kept), body, truth)
        voxels, scores, body, truth = (array[None] for array in arrays)
        geometry = Geometry(voxels.shape, np.diag([-1.0, -1.0, 1.0, 1.0]), spacing_known=False)
        name = item.image.stem.rpartition("_")[0]
        yield Case(name, geometry, voxels, scores, np.ones(1, bool), body, truth)


def volume(model: NormativeModel, folder: Path, cache: Path) -> Case:
    """Read a scan and its mask."""
    scan = model.cut(nsar.read(folder / "flair.nii.gz")[0])
    (mask,) = [path for path in folder.glob("*.nii.gz") if path.name != "flair.nii.gz"]
    drawn = model.cut(nsar.read(mask)[0])
    kept = cache / f"{folder.name}.npz"
    if not kept.exists():
        found = model.score_volume(scan).counting_unseen(False)
        np.savez_compressed(kept, nll=found.nll, scored=found.scored)
    with np.load(kept) as known:
        scores, scored = known["nll"], known["scored"]
    ends = resolve(model.header.preprocessing.window, scan)
    body = np.zeros(scan.data.shape, bool)
    for index in range(scan.geometry.slice_count):
        body_slice = tissue_mask(apply_window(scan.slice(index), *ends))
        scan.geometry.to_slices(body)[index] = body_slice
    voxels = np.asarray(scan.data, np.float32)
    truth = np.asarray(drawn.data) > 0
    return Case(folder.name, scan.geometry, voxels, scores, scored, body, truth)


@dataclass(frozen=True)
class Outcome:
    """Masks before and after, where regions on lesions are, and what each region took.

    ``left`` counts the regions that were left as they were.
    """

    before: np.ndarray
    after: np.ndarray
    on_lesions: np.ndarray
    seconds: list[float]
    left: int


def refined(case: Case, threshold: float, settings: RefineSettings) -> Outcome:
    """Refine every region of a mask."""
    scored = case.scored
    mask = make_mask(case.scores, threshold, geometry=case.geometry, scored=scored)
    labels = label_components(mask)
    hit = np.zeros(mask.shape, bool)
    allowed = case.body.copy()
    np.moveaxis(allowed, case.geometry.slice_axis, 0)[~scored] = False
    after, seconds, left = mask.copy(), [], 0
    flat = labels.ravel()
    for label in range(1, int(labels.max()) + 1):
        before = after.copy()
        start = time.perf_counter()
        try:
            found = refine_region(
                case.voxels,
                case.scores,
                after,
                np.flatnonzero(flat == label),
                case.geometry,
                allowed=allowed,
                settings=settings,
            )
        except Unrefined:
            left += 1
        else:
            after.flat[found.removed] = 0
            after.flat[found.added] = 1
        seconds.append(time.perf_counter() - start)
        if case.truth[labels == label].any():
            hit |= (labels == label) | (after > before)
    return Outcome(mask > 0, after > 0, hit, seconds, left)


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Dice of two masks."""
    return 2 * int((mask & truth).sum()) / int(mask.sum() + truth.sum())


def of_slices(cases: list[Case], threshold: float, settings: RefineSettings) -> dict[str, Any]:
    """Dice over all pixels of the slices, before and after, with intervals."""
    rows: dict[str, np.ndarray] = {}
    seconds, left = [], 0
    for case in cases:
        found = refined(case, threshold, settings)
        masks = (found.before, found.after)
        counts = [[(m & case.truth).sum(), m.sum(), case.truth.sum()] for m in masks]
        rows[case.patient] = rows.get(case.patient, 0) + np.array(counts)
        seconds, left = seconds + found.seconds, left + found.left
    counts = np.array(list(rows.values()), float)  # patient, before or after, what
    drawn = draw_weights(len(counts), DRAWS, 0)
    totals = np.tensordot(drawn, counts, 1)
    draws = 2 * totals[..., 0] / (totals[..., 1] + totals[..., 2])
    whole = counts.sum(axis=0)
    values = 2 * whole[:, 0] / (whole[:, 1] + whole[:, 2])

    def spread(of: np.ndarray) -> list[float] | None:
        ends = interval(of)
        return None if ends is None else [round(end, 3) for end in ends]

    return {
        "slices": len(cases),
        "patients": len(rows),
        "dice_before": round(float(values[0]), 3),
        "dice_before_interval": spread(draws[:, 0]),
        "dice_after": round(float(values[1]), 3),
        "dice_after_interval": spread(draws[:, 1]),
        "difference_interval": spread(draws[:, 1] - draws[:, 0]),
        "pixels_before": int(whole[0, 1]),
        "pixels_after": int(whole[1, 1]),
        "pixels_true": int(whole[0, 2]),
        "regions": len(seconds),
        "regions_left": left,
        "seconds_per_region": round(float(np.mean(seconds)), 3),
    }


def of_volume(case: Case, threshold: float, settings: RefineSettings) -> dict[str, Any]:
    """Dice and volumes of a scan, before and after."""
    found = refined(case, threshold, settings)
    before, after, hit = found.before, found.after, found.on_lesions
    ml = case.geometry.voxel_volume / 1000
    return {
        "dice_before": round(dice(before, case.truth), 3),
        "dice_after": round(dice(after, case.truth), 3),
        "ml_before": round(float(before.sum() * ml), 1),
        "ml_after": round(float(after.sum() * ml), 1),
        "ml_true": round(float(case.truth.sum() * ml), 1),
        "regions_on_lesions": {
            "dice_before": round(dice(before & hit, case.truth), 3),
            "dice_after": round(dice(after & hit, case.truth), 3),
            "ml_before": round(float((before & hit).sum() * ml), 1),
            "ml_after": round(float((after & hit).sum() * ml), 1),
        },
        "regions": len(found.seconds),
        "regions_left": found.left,
        "seconds_per_region": round(float(np.mean(found.seconds)), 3),
        "seconds_longest": round(max(found.seconds), 2),
    }


def tune(cases: list[Case], threshold: float) -> None:
    """Print the figures of several parameters, one changed at a time."""
    start = RefineSettings()
    choices: dict[str, tuple[float, ...]] = {
        "core": (0.3, 0.5, 0.7),
        "margin_mm": (2, 3, 4, 6),
        "smoothing_mm": (0, 0.5, 1, 1.5),
        "outside": (0.15, 0.25, 0.35),
        "inside": (0.5, 0.6, 0.75),
        "beta": (10, 130, 1000),
        "contrast": (0, 0.25, 0.5, 1, 1.5),
    }
    for name, values in choices.items():
        for value in values:
            found = of_slices(cases, threshold, replace(start, **{name: value}))
            keys = ("dice_before", "dice_after", "pixels_after", "regions_left")
            logging.info("%s %g: %s", name, value, {key: found[key] for key in keys})


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("volumes", type=Path)
    parser.add_argument("--model", default="brain-flair")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "refine")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--machine", default="")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model = nsar.load_model(options.model)
    cache = options.cache / model.sha256[:12]
    cache.mkdir(parents=True, exist_ok=True)
    threshold, settings = model.threshold_for_fpr(SHARE), RefineSettings()
    if options.tune:
        tune(list(slices(model, options.dataset, "valid", cache)), threshold)
        return
    result: dict[str, Any] = {
        "machine": options.machine,
        "model": options.model,
        "model_sha256": model.sha256,
        "share_of_normal_tissue_flagged": SHARE,
        "settings": settings.to_dict(),
    }
    for split in ("valid", "test"):
        cases = list(slices(model, options.dataset, split, cache))
        result[split] = of_slices(cases, threshold, settings)
        logging.info("%s %s", split, json.dumps(result[split]))
    result["volumes"] = {}
    for folder in sorted(path.parent for path in options.volumes.glob("*/flair.nii.gz")):
        found = of_volume(volume(model, folder, cache), threshold, settings)
        result["volumes"][folder.name] = found
        logging.info("%s %s", folder.name, json.dumps(found))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
