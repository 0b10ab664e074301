"""Commands killed at any moment, two at a time, and on a full disk: nothing is lost or mixed up."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from filelock import FileLock

import napari_spatial_ar as nsar
from napari_spatial_ar.normative.archive import export_model
from napari_spatial_ar.normative.backbones.registry import BACKBONES
from napari_spatial_ar.normative.backbones.weights import store
from tests.conftest import REPO_ROOT
from tests.tiny import TINY, draw_normal_slices, make_backbone, make_spec, random_state

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

MODEL, OWN = "model", "models/mine"


def score(*scans: str) -> list[str]:
    words = ["score", *(f"scans/{scan}.nii" for scan in scans), "--model", MODEL, "--out", "out"]
    return [*words, "--device", "cpu", "--threshold", "1"]


CALIBRATE = ["calibrate", MODEL, "more", "--device", "cpu"]
CALIBRATE_OWN = ["calibrate", "mine", "more", "--device", "cpu"]
WORKLIST = ["worklist", "scans/a.nii", "scans/b.nii"]
IMPORT = ["models", "import", "handed-on.zip", "--name", "new"]
KILLED = {
    "score": [*score("a", "b"), "--report", "--json", "result.json"],
    "calibrate": CALIBRATE,
    "worklist": WORKLIST,
    "import": IMPORT,
}
BOTH = {
    "two scores": (score("a"), score("b")),
    "two fits": tuple(
        [*("fit", "normal", "--out", "fitted", "--backbone", TINY, "--device", "cpu"), *more]
        for more in (
            ["--method", "patch-gaussian", "--size", "64"],
            ["--method", "memory-bank", "--size", "64"],
        )
    ),
    "two calibrations": (CALIBRATE, CALIBRATE),
    "rename while calibrating": (CALIBRATE_OWN, ["models", "rename", "mine", "yours"]),
    "delete while calibrating": (CALIBRATE_OWN, ["models", "delete", "mine"]),
    "two conversions": tuple(["convert", f"scans/{scan}.nii", "--out", "out"] for scan in "ab"),
    "two worklists": (WORKLIST[:2], WORKLIST[:2]),
    "two imports": (IMPORT, IMPORT),
}
FULL = {
    "score, full": (KILLED["score"], "out", [20_000, 60_000, 120_000, 250_000]),
    "calibrate, no room for embeddings": (CALIBRATE, "features", [4_096, 20_000]),
    "calibrate, no room for the model": (
        ["calibrate", MODEL, "more", "--device", "cpu", "--out", "new"],
        "new",
        [4_096, 30_000],
    ),
    "worklist, full": (WORKLIST, "kept", [4_096, 24_000]),
    "import, full": (IMPORT, "models", [4_096, 40_000]),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run, once for all of pytest's processes."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "dying"


def prepare(root: Path) -> None:
    """Make the home that each command starts from: a model, scans of one name, normals."""
    home = root / "template"
    home.mkdir(parents=True)
    spec, threads = make_spec(), torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAPARI_SPATIAL_AR_HOME", str(home))
        patch.setitem(BACKBONES, spec.name, spec)
        store(spec, random_state(spec))
        nsar.fit(
            draw_normal_slices(home / "normal"),
            out=home / MODEL,
            backbone=make_backbone(spec),
            size=64,
            device="cpu",
            method="spatial-ar",
            options={"epochs": 1, "batch_size": 4, "dilation": 1, "hidden": 16},
        )
        export_model(home / MODEL, home / "handed-on.zip")
        shutil.copytree(home / MODEL, home / OWN)
    torch.set_num_threads(threads)
    shutil.rmtree(home / "features")
    draw_normal_slices(home / "more", seed=9)
    (home / "scans").mkdir()
    for number, name in enumerate("ab"):
        voxels = np.random.default_rng(number).normal(100, 30, (40, 32, 4)).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1, 3, 1])), home / "scans" / f"{name}.nii")


@pytest.fixture(scope="module")
def ends(root: Path) -> dict[str, Any]:
    """How each run of each command ended."""
    with FileLock(root.with_suffix(".lock")):
        known = root / "ends.json"
        if not known.exists():
            prepare(root)
            known.write_text(run_all(root))
        found: dict[str, Any] = json.loads(known.read_text())
        return found


def run_all(root: Path) -> str:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.dying", str(root)),
            json.dumps(
                {
                    "killed": {name: [words] for name, words in KILLED.items()},
                    "both": BOTH,
                    "full": FULL,
                }
            ),
        ],
        cwd=REPO_ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def content(home: Path) -> dict[str, Any]:
    """All files of a home, without what differs from one run to the next: times and places."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in home.rglob("*") if path.is_file()):
        name, data = path.relative_to(home).as_posix(), path.read_bytes()
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = {key: arrays[key].tobytes() for key in arrays}
            continue
        if path.suffix == ".safetensors" and path.parent.name in ("model", "new"):
            found[name] = nsar.load_model(path, device="cpu").sha256
            continue
        if path.suffix in (".json", ".html", ".md"):
            text = data.decode().replace(home.name, "HOME")
            text = re.sub(r"\d{4}-\d\d-\d\d(T[\d:]+(\+00:00)?)?", "WHEN", text)
            text = re.sub(r'"(command|skipped)": [^,}]*', "", text)
            # The report's own hash, where its date is of another second.
            found[name] = re.sub(r'"report.html": \{[^}]*\}', "", text)
            continue
        found[name] = data
    return found


def said(home: Path, label: str = "") -> str:
    text = home.with_name(f"{label or home.name}.said").read_text()
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize("number", range(1, 11))
@pytest.mark.parametrize("command", KILLED)
def test_killed_and_run_again_ends_as_if_nothing_had_happened(
    root: Path, ends: dict[str, Any], command: str, number: int
) -> None:
    undisturbed, run = ends["killed"][command][0], ends["killed"][command][number]
    home, whole = root / run["home"], root / undisturbed["home"]
    assert undisturbed["again"] == 0
    assert run["end"] == -signal.SIGKILL, said(home)
    if command == "import" and "models/new/model.safetensors" in run["seen"]:
        assert "a model of this name already exists" in said(home)
    else:
        assert run["again"] == 0, said(home)
    found = content(home)
    assert list(found) == list(content(whole))  # none left over, none missing
    assert found == content(whole)
    # What was finished is not done again.
    for record in (home / "out").glob("[!.]*/provenance.json"):
        if str(record.relative_to(home)) in run["seen"]:
            for file in record.parent.iterdir():
                assert run["seen"][file.relative_to(home).as_posix()] == file.stat().st_ino


IN_USE = "another process is writing to this folder"


@pytest.mark.parametrize(
    ("name", "codes", "sentence"),
    [
        # Of the second while the first is stopped, of the first, of the second once more.
        ("two scores", (1, 0, 0), IN_USE),
        ("two fits", (1, 0, 1), IN_USE),
        ("two calibrations", (1, 0, 0), IN_USE),
        ("rename while calibrating", (1, 0, 0), IN_USE),
        ("delete while calibrating", (1, 0, 0), IN_USE),
        ("two conversions", (1, 0, 1), IN_USE),
        ("two worklists", (1, 0, 0), "in another window"),
        ("two imports", (0, 1, 1), "Imported as new"),
    ],
)
def test_of_two_at_a_time_one_is_refused(
    root: Path, ends: dict[str, Any], name: str, codes: tuple[int, int, int], sentence: str
) -> None:
    home, run = root / name, ends["both"][name]
    assert (run["meanwhile"], run["first"], run["second"]) == codes
    assert sentence in said(home, f"{name}-second")
    for label in ("first", "again"):
        said(home, f"{name}-{label}")
    files = content(home)
    assert not [path for path in files if "/." in f"/{path}" and ".trash" not in path]
    # The first one's work is there, and the second's beside it where there is room for both.
    if name == "two scores":
        records = [json.loads(p.read_text()) for p in home.glob("out/*/provenance.json")]
        assert len({record["run"]["scan"] for record in records}) == len(records) == 2
        for record in records:
            assert record["files"].keys() == {"nll.nii.gz", "score.nii.gz", *_REST}
    elif name == "two fits":
        assert nsar.load_model(home / "fitted", device="cpu").header.method == "patch-gaussian"
    elif name == "two conversions":
        (written,) = home.glob("out/*")
        first = nib.load(home / "scans" / "a.nii").get_fdata()
        assert np.array_equal(nib.load(written).get_fdata(), first)
    elif name == "rename while calibrating":
        assert nsar.load_model(home / "models/yours", device="cpu").calibration.patients == 4
    elif name == "delete while calibrating":
        (deleted,) = home.glob("models/.trash/*-mine")
        assert nsar.load_model(deleted, device="cpu").calibration.patients == 4


_REST = ("mask.nii.gz", "findings.nii.gz", "findings.csv", "findings.json", "montage.png")


@pytest.mark.parametrize("command", FULL)
def test_a_full_disk_is_one_sentence_and_nothing_is_lost(
    root: Path, ends: dict[str, Any], command: str
) -> None:
    undisturbed, *runs = ends["full"][command]
    assert undisturbed["again"] == 0
    whole = content(root / undisturbed["home"])
    for run in runs:
        home = root / run["home"]
        first = said(home).strip().splitlines()[0]
        assert run["end"] == 1, first
        assert first.startswith("error: ")
        assert "the disk is full or its quota is used up" in first or "are free" in first
        assert not [name for name in run["seen"] if "/." in f"/{name}"]
        assert run["again"] == 0, said(home)
        found = content(home)
        assert list(found) == list(whole)
        assert found == whole
