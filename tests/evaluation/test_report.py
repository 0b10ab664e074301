"""What stands in a report, and what must not."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_spatial_ar.datasets.folders import BmadItem
from napari_spatial_ar.evaluation import report
from napari_spatial_ar.evaluation.baselines import ComparedMethod
from napari_spatial_ar.evaluation.compare import Comparison, compare
from napari_spatial_ar.evaluation.report import (
    curve_figures,
    curves_svg,
    examples,
    patient_labels,
    write_report,
)
from tests.browser import Browser
from tests.evaluation.conftest import BrightnessModel
from tests.json_check import check
from tests.paper import drawn, pypdf


@pytest.fixture
def comparison(cohort: Path) -> Comparison:
    quick, slow = BrightnessModel(), BrightnessModel()
    quick.header.training = {"seed": 0, "seconds": 1.0}
    slow.header.training = {"seed": 0, "seconds": 3.0}
    methods = [
        ComparedMethod("bright <b>", (quick, slow)),  # type: ignore[arg-type]
        ComparedMethod("dark | side", (BrightnessModel(inverted=True),)),  # type: ignore[arg-type]
    ]
    return compare(cohort, methods, smoothing=1, fpr=0.1, draws=50)


def test_three_files_say_the_same(comparison: Comparison, tmp_path: Path) -> None:
    paths = write_report(comparison, tmp_path / "out")
    assert [path.name for path in paths] == ["results.json", "report.md", "report.html"]
    results = json.loads(paths[0].read_text())
    check(results, "comparison")
    value = results["methods"][0]["mean"]["pixel_aupr"]
    for path in paths:
        text = re.sub(r"base64,[^\"]*", "", path.read_text())
        assert "For research use, not for diagnosis." in text
        assert "Doe" not in text
        assert not re.search(r"NaN|None|nan\b", text), path
    assert [seed["fit_seconds"] for seed in results["methods"][0]["seeds"]] == [1.0, 3.0]
    assert re.search(r"bright.*\| 2\.0 \|", paths[1].read_text())
    assert f"{value:.4f}" in paths[1].read_text()
    assert f"{value:.4f}" in paths[2].read_text()
    assert "dark \\| side" in paths[1].read_text()
    (line,) = [t for t in paths[1].read_text().splitlines() if t.startswith("- pixel AUPR, ")]
    assert f"{results['ratios'][0]['ratio']:.3f}" in line


def test_the_page_needs_nothing_from_elsewhere(comparison: Comparison, tmp_path: Path) -> None:
    page = write_report(comparison, tmp_path)[2].read_text()
    tags: list[str] = []
    addresses: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)
            addresses.extend(v or "" for k, v in attrs if k in ("src", "href", "data"))

    Reader().feed(page)
    assert not {"script", "link", "iframe", "object", "b"} & set(tags)
    assert addresses
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert "http:" not in page.replace("Content-Security-Policy", "")
    assert "bright &lt;b&gt;" in page
    assert tags.count("svg") == 4


def test_the_page_can_be_read_on_any_screen_and_on_paper(
    cohort: Path, tmp_path: Path, browser: Browser
) -> None:
    names = [
        "spatial-ar:dilations=1-2-4-2-1,whiten=true,hidden=512",
        *(f"bank {n}" for n in "123456"),
    ]
    methods = [ComparedMethod(name, (BrightnessModel(),)) for name in names]  # type: ignore[arg-type]
    page = write_report(compare(cohort, methods, smoothing=1, fpr=0.1, draws=20), tmp_path)[2]
    browser.check_page(page, paper_mm=297)
    reader = pypdf.PdfReader(io.BytesIO(browser.pdf()))
    texts = [" ".join(sheet.extract_text().split()) for sheet in reader.pages]
    for number, text in enumerate(texts, 1):
        assert f"Page {number} of {len(texts)}" in text
    assert [float(side) for side in reader.pages[0].mediabox[2:]] == pytest.approx(
        [842, 595], abs=1
    )
    # Three patients, each by its slice and a picture of every method.
    assert sum(map(drawn, reader.pages)) == 3 * (1 + len(names))


def test_curves_are_drawn_where_they_are(comparison: Comparison) -> None:
    roc, both, pro, froc = curve_figures(comparison.results).values()
    mean = comparison.results[0].mean
    for figure, name in ((roc, "pixel_auroc"), (pro, "pixel_aupro")):
        (axes,) = figure.axes
        lines = axes.lines
        assert len(lines) == 3  # two seeds and one
        assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
        x, y = lines[0].get_data()
        most = axes.get_xlim()[1]
        assert np.trapezoid(y, x) / most == pytest.approx(mean(name), abs=3e-3)
        assert (x[0], y[0], x[-1]) == pytest.approx((0, 0, most), abs=1e-3)
    (axes,) = froc.axes
    assert len(axes.lines) == 3
    false, found = axes.lines[0].get_data()
    at = comparison.results[0].measured[0].evaluation.lesion_sensitivity_at
    for rate, sensitivity in at.items():
        assert found[false <= float(rate)].max(initial=0) == pytest.approx(sensitivity)
    recall, precision = both.axes[0].lines[0].get_data()
    assert np.sum(np.diff(recall, prepend=0) * precision) == pytest.approx(
        mean("pixel_aupr"), abs=3e-3
    )


def test_curves_are_elements_with_names_and_text(comparison: Comparison) -> None:
    drawn = curves_svg(comparison.results)
    assert drawn == curves_svg(comparison.results)
    names = re.findall(r'<svg role="img" aria-label="([^"]*)"', drawn)
    assert names == ["ROC curves", "Precision and recall curves", "PRO curves", "FROC curves"]
    for text in ("false-positive rate", "mean overlap of regions", "0.30"):
        assert f">{text}</text>" in drawn
    assert not re.search(r"<\?|<!DOCTYPE|http", drawn)


def test_examples_are_the_best_median_and_worst_patients(comparison: Comparison) -> None:
    measured = comparison.results[0].measured[0]
    drawn = examples(comparison)
    values = np.sort(measured.patient_aupr)[::-1]
    assert [example.rank for example in drawn] == ["best", "median", "worst"]
    assert [e.value for e in drawn] == [values[0], values[2], values[4]]
    for example in drawn:
        assert example.value == measured.patient_aupr[example.patient]
        shown, bright, dark = (
            np.asarray(Image.open(io.BytesIO(base64.b64decode(p.partition(",")[2]))))
            for p in example.pictures
        )
        assert shown.shape == (224, 224, 3)
        assert (shown[..., 2] > shown[..., 0].astype(int) + 50).any()  # the label's cyan outline
        assert (bright != dark).any()


@pytest.mark.parametrize("numbers", [(1, 255), (255, 1), (2, 7)])
def test_the_picture_of_a_patient_is_that_of_the_largest_label(
    tmp_path: Path, numbers: tuple[int, int]
) -> None:
    items = []
    for side, number in zip((20, 10), numbers, strict=True):
        label = np.zeros((40, 40), np.uint8)
        label[:side, :side] = number
        path = tmp_path / f"{side}.png"
        Image.fromarray(label).save(path)
        items.append(BmadItem(path, path, abnormal=True, group="p"))
    unlabelled = BmadItem(tmp_path / "x.png", None, abnormal=True, group="p")
    other = BmadItem(items[0].image, items[0].label, abnormal=True, group="another")
    assert report._largest([unlabelled, *items[::-1], other], "p") == items[0]


def test_without_labels_there_are_no_curves(cohort: Path, tmp_path: Path) -> None:
    shutil.rmtree(cohort / "test" / "Ungood" / "label")
    methods = [ComparedMethod("bright", (BrightnessModel(),))]  # type: ignore[arg-type]
    comparison = compare(cohort, methods, smoothing=1, fpr=0.1, draws=20)
    page = write_report(comparison, tmp_path / "out")[2].read_text()
    assert "<svg" not in page
    assert "<img" in page
    assert "image score" in page


def test_labels_do_not_give_patients_away() -> None:
    labels = patient_labels(["Doe", "Roe"])
    assert labels == patient_labels(["Doe", "Roe"])
    assert len(set(labels)) == 2
    assert patient_labels(["Doe"])[0] != labels[0]  # the list of all patients is the key
