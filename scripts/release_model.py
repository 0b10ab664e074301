"""Make a released model again with one command: fit, measure, draw, and rewrite its card's figures.

python scripts/release_model.py brain-flair|liver-ct DATASET [--work FOLDER] [--engine openvino]

DATASET is the model's data set in the BMAD layout. What is already in --work is kept: the fitted
model, and each evaluation of that very file, so that the same command resumes after an
interruption. In models/NAME it replaces the model, its pictures, and in README.md what stands
between the lines `<!-- figures -->` and `<!-- calibration -->` and their ends. The text around them
is a person's; read it again, since it may speak of figures.

Pictures: losses.png and calibration.png are the fit's, froc.png is drawn here, and test.png (hits,
misses and false regions on slices) only where the licence of the images allows it.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_spatial_ar.imaging.files import atomic_write_text
from napari_spatial_ar.normative.model import load_model
from napari_spatial_ar.review.drawing import ACCENT, MUTED, Line, line_plot, write_png

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "models"
LEAD = {
    "": "this model",
    "nll": "its NLL alone",
    "change": "its similarity to synthetic anomalies alone",
}
COLOURS = {"": ACCENT, "nll": (255, 170, 60)}
AREAS = ("pixel_auroc", "pixel_aupr", "pixel_aupro", "image_auroc")


@dataclass(frozen=True)
class Release:
    """How a released model is fitted, and whether its images may be shown."""

    fit: tuple[str, ...]
    shows_slices: bool


RELEASES = {
    "brain-flair": Release(("--acquired", "axial FLAIR"), shows_slices=True),
    "liver-ct": Release(
        ("--modality", "ct", "--window", "liver", "--acquired", "axial"), shows_slices=False
    ),
}


def run(*arguments: object) -> None:
    """Run a command of the program; its messages go to the terminal."""
    command = [sys.executable, "-m", "napari_spatial_ar", *map(str, arguments)]
    subprocess.run(command, check=True)


def evaluated(model: Path, dataset: Path, part: str, engine: str) -> dict[str, Any]:
    """Evaluate a part ("": all) on test, unless that was done for this very file."""
    loaded = load_model(model, part=part or None)
    path = model.with_name(f"{model.name}-{part or 'all'}.json")
    if path.exists():
        known: dict[str, Any] = json.loads(path.read_text())
        if (known["model_sha256"], known["engine"]) == (loaded.sha256, engine):
            return known
    only = ("--part", part) if part else ()
    run("evaluate", dataset, "--model", model, *only, "--engine", engine, "--json", path)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _value(found: dict[str, Any], name: str) -> str:
    if found[name] is None:
        return ""
    low, high = found["intervals"].get(name, (None, None))
    return f"{found[name]:.3f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]")


def figures(found: dict[str, dict[str, Any]]) -> str:
    """Figures on the test split: areas, share of tissue and lesions, each part beside the whole."""
    whole = found[""]
    images, abnormal = whole["images"], whole["abnormal_images"]
    lines = [
        f"{images} slices ({abnormal} abnormal) of {whole['patients']} patients who are in no "
        f"other split. {whole['base_rate']:.1%} of pixels are abnormal, which is the AUPR of a "
        "random heatmap. Intervals (95 %) are over patients.",
        "",
        "| | pixel AUROC | pixel AUPR | AUPRO 0.3 | image AUROC | flagged at 1 % | Dice there |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for part, one in found.items():
        cells = [_value(one, name) for name in AREAS]
        share = f"{one['realised_fpr']:.1%}"
        row = [LEAD[part], *cells, share, f"{one['dice_at_fpr']:.3f}"]
        lines.append(f"| {' | '.join(row)} |")
    lines += [
        "",
        "*Flagged at 1 %*: share of tissue of the normal test slices above the threshold "
        "calibrated for 1 % of normal tissue; the Dice is pooled.",
        "",
        f"Lesions found, of {whole['lesions']} regions of the labels (a lesion counts as found by "
        "a region whose centre lies in it, or that overlaps it by an IoU above 0.1; "
        "[how](../../docs/how-to/evaluation.md)), at false positives per patient:",
        "",
    ]
    rates = list(whole["lesion_sensitivity_at"])
    lines += [f"| | {' | '.join(rates)} | mean |", f"|{' --- |' * (len(rates) + 2)}"]
    for part, one in found.items():
        shares = [f"{one['lesion_sensitivity_at'][rate]:.2f}" for rate in rates]
        mean = _value(one, "lesion_sensitivity")
        lines.append(f"| {' | '.join([LEAD[part], *shares, mean])} |")
    sizes = ", ".join(
        f"{size['sensitivity']:.2f} of the {size['lesions']} of {size['smallest']} to "
        f"{size['largest']} pixels"
        for size in whole["lesion_sizes"]
    )
    return "\n".join(
        [
            *lines,
            "",
            f"The mean by size: {sizes}.",
            "",
            "![Lesions found, against false positives](froc.png)",
        ]
    )


def froc_plot(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw the share of lesions found against false positives a patient."""
    lines = []
    for part, one in found.items():
        at = one["lesion_sensitivity_at"]
        rates = [float(rate) for rate in at]
        lines.append(Line(rates, list(at.values()), COLOURS.get(part, MUTED), LEAD[part]))
    title = "Lesions found"
    write_png(
        path, line_plot(lines, title=title, x_label="false positives per patient", y_label="share")
    )


def replaced(card: str, name: str, text: str) -> str:
    """Put text between the two lines of a section of a card."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    found = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if not found.search(card):
        raise SystemExit(f"The card lacks the lines '{start}' and '{end}', where {name} go.")
    return found.sub(lambda _: f"{start}\n{text}\n{end}", card)


def main() -> None:
    """Parse arguments, make the model, put it in place."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(RELEASES))
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--work", type=Path, default=Path("release_work"))
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--engine", default="float32")
    said = parser.parse_args()
    release, model = RELEASES[said.name], said.work / said.name
    target = said.models / said.name
    card = (target / "README.md").read_text(encoding="utf-8")
    for section in ("figures", "calibration"):
        replaced(card, section, "")  # a card without these lines is reported before the fit
    if not (model / "model.safetensors").exists():
        fit = ("--backbone", "dinov2_vits14_focus", *release.fit)
        run("fit", said.dataset, "--out", model, *fit)
    parts = load_model(model).detector.parts
    found = {part: evaluated(model, said.dataset, part, said.engine) for part in ("", *parts)}
    text = figures(found)
    if release.shows_slices:
        draw = [sys.executable, str(ROOT / "benchmarks" / "pictures.py")]
        subprocess.run([*draw, said.dataset, model, model / "test.png"], check=True)
    froc_plot(found, model / "froc.png")
    own = (model / "README.md").read_text(encoding="utf-8")
    calibration = own.partition("\n## Calibration\n")[2].partition("\n## ")[0].strip()
    card = replaced(replaced(card, "figures", text), "calibration", calibration)
    shown = ("losses.png", "calibration.png", "froc.png", *(["test.png"] * release.shows_slices))
    for name in ("model.safetensors", *shown):
        shutil.copy(model / name, target / name)
    atomic_write_text(target / "README.md", card)
    print(f"{target}: read README.md again, and look at its pictures.")  # noqa: T201


if __name__ == "__main__":
    main()
