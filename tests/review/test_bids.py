"""Masks under BIDS names: only of scans in a data set, side by side, each with its table."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.review.bids import BidsDerivatives, BidsScan
from napari_spatial_ar.review.findings import list_findings
from napari_spatial_ar.review.outputs import write_scan_outputs

FLAIR = "sub-07/ses-b/anat/sub-07_ses-b_run-1_FLAIR.nii.gz"


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    root = tmp_path / "raw"
    for name in (FLAIR, FLAIR.replace("FLAIR", "T1w"), "sub-08/anat/sub-08_desc-n4_FLAIR.nii"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "dataset_description.json").write_text("{}")
    return root


@pytest.fixture
def results(tmp_path: Path, scan: Scan, scores: Any, model: Any) -> Path:
    """Of two regions, the second is rejected."""
    scores.nll[3, 20:22, 15:18] = 2.2
    listed = list_findings(scores.nll > 2, scores.nll, scan.geometry, model=model)
    gone = next(item.finding for item in listed.items if item.finding.rank == 2)
    listed = listed.decide(gone.label, status="reject")
    write_scan_outputs(tmp_path / "out", scan, scores, model, threshold=2.0, reviewed=listed)
    return tmp_path / "out"


def test_masks_are_named_after_the_scan_and_its_kind(data_set: Path, results: Path) -> None:
    derived = BidsDerivatives(results / "bids", "brain")
    for name in (FLAIR, FLAIR.replace("FLAIR", "T1w")):
        assert derived.add([data_set / name], results if "FLAIR" in name else results / ".") is None
    folder = results / "bids/sub-07/ses-b/anat"
    stems = [f"sub-07_ses-b_run-1_desc-{kind}findings" for kind in ("FLAIR", "T1w")]
    endings = ("dseg.json", "dseg.nii.gz", "dseg.tsv", "mask.json", "mask.nii.gz")
    assert sorted(p.name for p in folder.iterdir()) == [f"{s}_{e}" for s in stems for e in endings]
    for key, kind in (("findings", "dseg"), ("mask", "mask")):
        written = nib.load(folder / f"{stems[0]}_{kind}.nii.gz")
        original = nib.load(results / f"{key}.nii.gz")
        assert np.array_equal(written.affine, original.affine)
        assert np.array_equal(np.asarray(written.dataobj), np.asarray(original.dataobj))
    with (folder / f"{stems[0]}_dseg.tsv").open(newline="") as file:
        (row,) = csv.DictReader(file, delimiter="\t")
    numbers = np.asarray(nib.load(folder / f"{stems[0]}_dseg.nii.gz").dataobj)
    assert np.unique(numbers).tolist() == [0, int(row["index"])]
    assert int(row["voxels"]) == (numbers == 1).sum()
    assert (row["name"], row["unit"]) == ("Flagged region 1", "nats per dimension")
    assert row["color"].startswith("#")
    about = json.loads((folder / f"{stems[0]}_dseg.json").read_text())
    assert about["Sources"] == [f"bids:raw:{FLAIR}"]
    assert {"index", "name", "color"} <= set(about)


def test_the_data_set_says_what_it_is_and_of_what(data_set: Path, results: Path) -> None:
    derived = BidsDerivatives(results / "bids", "brain")
    derived.add([data_set / FLAIR], results)
    found = json.loads((results / "bids/dataset_description.json").read_text())
    assert (found["DatasetType"], found["GeneratedBy"][0]["Name"]) == (
        "derivative",
        "napari-spatial-ar",
    )
    assert (results / "bids" / found["DatasetLinks"]["raw"]).resolve() == data_set.resolve()
    other = results / "another"
    (other / FLAIR).parent.mkdir(parents=True)
    (other / "dataset_description.json").write_text("{}")
    with pytest.raises(InputError, match="another BIDS dataset"):
        BidsDerivatives(results / "bids", "brain").add([other / FLAIR], results)
    assert BidsDerivatives(results / "bids", "brain").add([data_set / FLAIR], results) is None


def test_one_run_does_not_mix_two_data_sets(data_set: Path, results: Path) -> None:
    derived = BidsDerivatives(results / "bids", "brain")
    assert derived.add([data_set / FLAIR], results) is None
    before = {p: p.read_bytes() for p in (results / "bids").rglob("*") if p.is_file()}
    second = data_set.with_name("raw2")
    shutil.copytree(data_set, second)
    with pytest.raises(InputError, match=r"another BIDS dataset.*a folder of its own"):
        derived.add([second / FLAIR], results)
    assert {p: p.read_bytes() for p in (results / "bids").rglob("*") if p.is_file()} == before
    assert derived.add([data_set / FLAIR.replace("FLAIR", "T1w")], results / ".") is None


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        (FLAIR, "sub-07/ses-b/anat/sub-07_ses-b_run-1_desc-FLAIRfindings"),
        ("sub-08/anat/sub-08_desc-n4_FLAIR.nii", "sub-08/anat/sub-08_desc-n4FLAIRfindings"),
    ],
)
def test_a_name_of_the_data_set_keeps_its_entities(data_set: Path, name: str, stem: str) -> None:
    found = BidsScan.of(data_set / name)
    assert found is not None
    assert (found.root, str(found.file), found.stem) == (data_set, name, stem)


@pytest.mark.parametrize(
    "name",
    [
        "scan.nii.gz",
        "sub-07_FLAIR.nii.gz",
        "sub-07/anat/sub-08_FLAIR.nii.gz",
        "sub-07/sub-07.nii.gz",
    ],
)
def test_other_files_have_no_bids_name(data_set: Path, results: Path, name: str) -> None:
    derived = BidsDerivatives(results / "bids", "brain")
    assert derived.add([data_set / name], results) == "its file has no BIDS name in a BIDS dataset"
    assert not (results / "bids").exists()


def test_a_folder_without_a_description_is_no_data_set(data_set: Path) -> None:
    (data_set / "dataset_description.json").unlink()
    assert BidsScan.of(data_set / FLAIR) is None


def test_volumes_of_one_file_do_not_replace_each_other(data_set: Path, results: Path) -> None:
    derived = BidsDerivatives(results / "bids", "brain")
    assert derived.add([data_set / FLAIR], results) is None
    assert "several volumes" in str(derived.add([data_set / FLAIR], results / "other"))
