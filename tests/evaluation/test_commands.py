"""evaluate and compare as commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from napari_spatial_ar.cli import app
from tests.json_check import check


def run(tmp_path: Path, *arguments: Any, code: int = 0) -> dict[str, Any]:
    target = tmp_path / "result.json"
    target.unlink(missing_ok=True)
    result = CliRunner().invoke(app, [*map(str, arguments), "--json", str(target)])
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(target.read_text())
    check(found)
    return found


@pytest.mark.usefixtures("tiny_weights")
def test_compare_fits_scores_and_reports(tmp_path: Path, cohort: Path, tiny_name: str) -> None:
    out = tmp_path / "out"
    arguments = ["compare", cohort, "--out", out, "--device", "cpu", "--draws", 20, "--fpr", 0.1]
    fitting = ["--backbone", tiny_name, "--epochs", 1, "--batch-size", 4]
    fitting += ["--method", "spatial-ar:dilation=1,size=[64,64]", "--seeds", "0,1"]
    fitting += ["--method", "memory-bank:size=[64,64]"]
    result = run(tmp_path, *arguments, *fitting)
    assert [m["method"] for m in result["methods"]] == ["spatial-ar", "memory-bank"]
    assert result["methods"][0]["name"] == "spatial-ar dilation=1 size=[64, 64]"
    assert all(Path(path).is_file() for path in result["files"])
    models = sorted(path.name for path in (out / "models").iterdir())
    assert models[2:] == [f"spatial-ar-dilation-1-size-64-64-seed{seed}" for seed in (0, 1)]
    assert all(seed["fit_seconds"] > 0 for m in result["methods"] for seed in m["seeds"])
    given = ["--model", out / "models" / models[2], "--model", out / "models" / models[3]]
    again = run(tmp_path, *arguments, *given, "--smoothing", 3)
    (method,) = again["methods"]
    assert (method["name"], len(method["seeds"])) == ("spatial-ar-dilation-1-size-64-64", 2)
    evaluated = run(tmp_path, "evaluate", cohort, *given[:2], "--fpr", 0.1, "--device", "cpu")
    assert method["smoothing"] == evaluated["smoothing"] == 3
    assert method["seeds"][0]["pixel_aupr"] == pytest.approx(evaluated["pixel_aupr"], abs=1e-9)
    assert set(evaluated["intervals"]) >= {"pixel_aupr", "image_auroc", "dice_at_fpr"}


def test_wrong_use_is_one_sentence(tmp_path: Path, cohort: Path) -> None:
    wrong = {
        "nothing to compare": [],
        "anomalib": ["--anomalib", "padim"],
        "not a list of seeds": ["--method", "memory-bank", "--seeds", "a"],
        "not a setting of a fit": ["--method", "memory-bank:nonsense=1"],
        "seed must be at least 0, not -1": ["--method", "memory-bank", "--seeds", "0,-1"],
        "coreset must be above 0 and at most 1, not 7": [
            *("--method", "memory-bank", "--method", "memory-bank:coreset=7")
        ],
        "no backbone 'resnet'": ["--method", "memory-bank", "--method", "dpmm:backbone=resnet"],
    }
    for words, arguments in wrong.items():
        arguments = ["compare", cohort, "--out", tmp_path / "out", *arguments]
        error = run(tmp_path, *arguments, code=1)["error"]
        assert words in error
        assert "\n" not in error
    assert not (tmp_path / "out").exists()
