"""What a model's calibration promises, and what other normal patients give.

python benchmarks/calibration.py DATASET --model MODEL [--json FILE]

Scores the normal images of the test split (BMAD layout), whose patients are in no other split. For
nominal shares of 10, 5 and 1 %: the share of tissue above the threshold, and the shares of slices
and of scans with a p-value of at most that, patients counting alike. Each has a 95 % interval from
patients drawn with replacement; where no patient has any, its upper end is the exact one for none
of as many. The interval covers other test patients, not other calibration patients. Prints rows for
a model card.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import napari_spatial_ar as nsar
from napari_spatial_ar.datasets.folders import bmad_items
from napari_spatial_ar.evaluation.bootstrap import draw_weights, interval, resample_shares
from napari_spatial_ar.evaluation.candidates import Candidate, score_items
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.windows import apply_window
from napari_spatial_ar.normative.model import NormativeModel

NOMINAL = (0.1, 0.05, 0.01)
Figure = dict[str, float | list[float] | None]


def share(part: list[float], whole: list[float], weights: np.ndarray) -> Figure:
    """Share over patients, with its interval: sums of parts over sums of wholes."""
    counts = {"flagged": np.array(part), "tissue": np.array(whole)}
    (draws,) = resample_shares(counts, weights).values()
    value = float(np.sum(part) / np.sum(whole))
    ends = interval(draws) if value else (0.0, 1 - 0.025 ** (1 / len(part)))
    return {"realised": round(value, 5), "interval": ends and [round(end, 5) for end in ends]}


def measure(dataset: Path, model: NormativeModel, draws: int, pattern: str | None) -> dict:
    """Realised shares at each nominal one."""
    calibration = model.calibration
    items = [i for i in bmad_items(dataset, "test", patient_pattern=pattern) if not i.abnormal]
    above: dict[str, list[np.ndarray]] = {}
    tissue: dict[str, list[int]] = {}
    slices: dict[str, list[float]] = {}
    cuts = np.array([calibration.threshold_for_fpr(nominal) for nominal in NOMINAL])
    for scored in score_items(items, [Candidate(model)]):
        (score,), patient = scored.scores, scored.item.group
        body = score.nll[tissue_mask(apply_window(scored.image, *scored.window))]
        above.setdefault(patient, []).append((body[:, None] > cuts).sum(axis=0))
        tissue.setdefault(patient, []).append(len(body))
        slices.setdefault(patient, []).append(score.image_score)
    weights = draw_weights(len(slices), draws, seed=0)
    ones = [1.0] * len(slices)
    slice_p = [np.array([calibration.slice_p(s) for s in own]) for own in slices.values()]
    scan_p = np.array([calibration.scan_p(own) for own in slices.values()])
    shares = {}
    for number, nominal in enumerate(NOMINAL):
        flagged = [float(sum(counts[number] for counts in own)) for own in above.values()]
        reached = nominal >= (calibration.smallest_p or 1)
        shares[f"{nominal:g}"] = {
            "threshold": float(cuts[number]),
            "tissue": share(flagged, [float(sum(n)) for n in tissue.values()], weights),
            "promised_of_tissue": calibration.fpr_bound(cuts[number]),
            "slices": share([float(np.mean(p <= nominal)) for p in slice_p], ones, weights)
            if reached
            else None,
            "scans": share(list((scan_p <= nominal).astype(float)), ones, weights)
            if reached
            else None,
        }
    return {
        "model": model.name,
        "model_sha256": model.sha256,
        "method": model.header.method,
        "calibration": {
            "slices": calibration.slices,
            "patients": calibration.patients,
            "separate": calibration.separate,
            "folds": calibration.folds,
            "smallest_p": calibration.smallest_p,
        },
        "test": {"slices": len(items), "patients": len(slices), "draws": draws},
        "nominal": shares,
    }


def cell(figure: Figure | None) -> str:
    """One cell of the table, in per cent."""
    if figure is None:
        return "not promised"
    low, high = figure["interval"]
    return f"{100 * figure['realised']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def main() -> None:
    """Parse arguments, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--patient-pattern")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/calibration.json"))
    said = parser.parse_args()
    model = nsar.load_model(said.model)
    result = measure(said.dataset, model, said.draws, said.patient_pattern)
    record = json.loads(said.json.read_text()) if said.json.exists() else {}
    record[f"{said.dataset.name}, {model.name}"] = result
    said.json.write_text(json.dumps(record, indent=2) + "\n")
    patients = f"{result['calibration']['patients']} / {result['test']['patients']}"
    for kind in ("tissue", "slices", "scans"):
        cells = " | ".join(cell(shares[kind]) for shares in result["nominal"].values())
        print(f"| {said.dataset.name} | {patients} | {kind} | {cells} |")  # noqa: T201


if __name__ == "__main__":
    main()
