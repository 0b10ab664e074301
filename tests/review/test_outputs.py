"""The five files of a scan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from napari_spatial_ar.errors import InputError, StorageError
from napari_spatial_ar.imaging.volume import Volume
from napari_spatial_ar.review import outputs
from napari_spatial_ar.review.outputs import OUTPUT_FILES, scan_folder_name, write_scan_outputs
from napari_spatial_ar.review.provenance import RESEARCH_USE


def test_files_lie_on_the_scan_and_agree(
    tmp_path: Path, scan: Volume, scores: Any, model: Any
) -> None:
    written = write_scan_outputs(
        tmp_path / "out", scan, scores, model, threshold=2.0, fpr=0.01, min_size_mm3=5
    )
    paths = written.files
    assert np.array_equal(written.mask, scores.nll > 2)
    assert len(written.findings) == 1
    assert {key: path.name for key, path in paths.items()} == OUTPUT_FILES
    source = nib.load(scan.path)
    nll, mask = nib.load(paths["nll"]), nib.load(paths["mask"])
    for image, dtype in ((nll, np.float32), (mask, np.uint8)):
        assert image.get_data_dtype() == dtype
        assert np.array_equal(image.affine, source.affine)
        assert image.shape == source.shape
    assert np.array_equal(np.asarray(nll.dataobj).T, scores.nll)
    assert np.array_equal(np.asarray(mask.dataobj).T, scores.nll > 2)
    (finding,) = json.loads(paths["findings_json"].read_text())["findings"]
    assert finding["voxels"] == int((scores.nll > 2).sum())
    assert len(paths["findings_csv"].read_text().splitlines()) == 2
    record = json.loads(paths["provenance"].read_text())
    assert record["research_use"] == RESEARCH_USE
    assert record["threshold"]["nats_per_dimension"] == 2.0
    assert record["threshold"]["share_of_normal_tissue_flagged"] == 0.01
    assert record["threshold"]["mask_edited_by_hand"] is False
    assert record["scan"]["slices_scored"] == 4
    assert record["model"]["sha256"] == model.sha256
    assert record["model"]["training"] == {"seed": 7}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["DOE_JANE.nii.gz", "out"]


def test_nothing_written_names_the_patient(
    tmp_path: Path, scan: Volume, scores: Any, model: Any
) -> None:
    scan = replace(scan, series=replace(scan.series, uid="1.2.840.99.7"))
    paths = write_scan_outputs(tmp_path / "out", scan, scores, model, threshold=2.0).files
    for path in paths.values():
        content = path.read_bytes()
        assert b"DOE" not in content
        assert b"1.2.840.99.7" not in content
    kept = write_scan_outputs(
        tmp_path / "b", scan, scores, model, threshold=2.0, keep_uids=True
    ).files
    assert "1.2.840.99.7" in kept["provenance"].read_text()


def test_an_edited_mask_is_written_and_recorded(
    tmp_path: Path, scan: Volume, scores: Any, model: Any
) -> None:
    mask = np.zeros(scan.data.shape, np.int32)
    mask[0, 0, 0] = 3
    paths = write_scan_outputs(
        tmp_path / "out", scan, scores, model, threshold=2.0, mask=mask
    ).files
    assert np.asarray(nib.load(paths["mask"]).dataobj).sum() == 1
    (finding,) = json.loads(paths["findings_json"].read_text())["findings"]
    assert finding["centroid_zyx"] == [0, 0, 0]
    record = json.loads(paths["provenance"].read_text())
    assert record["threshold"]["mask_edited_by_hand"] is True


def test_earlier_results_are_kept_unless_asked(
    tmp_path: Path, scan: Volume, scores: Any, model: Any
) -> None:
    out = tmp_path / "out"
    paths = write_scan_outputs(out, scan, scores, model, threshold=2.0).files
    (out / "notes.txt").write_text("mine")
    before = paths["mask"].read_bytes()
    with pytest.raises(InputError, match="earlier run"):
        write_scan_outputs(out, scan, scores, model, threshold=9.0)
    assert paths["mask"].read_bytes() == before
    write_scan_outputs(out, scan, scores, model, threshold=9.0, overwrite=True)
    assert np.asarray(nib.load(paths["mask"]).dataobj).sum() == 0
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path,
    scan: Volume,
    scores: Any,
    model: Any,
    monkeypatch: pytest.MonkeyPatch,
    existing: bool,
) -> None:
    out = tmp_path / "out"
    if existing:
        write_scan_outputs(out, scan, scores, model, threshold=2.0)
    before = {p: p.read_bytes() for p in out.rglob("*")}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs, "write_findings_json", full)
    with pytest.raises(StorageError, match="disk is full"):
        write_scan_outputs(out, scan, scores, model, threshold=9.0, overwrite=True)
    assert {p: p.read_bytes() for p in out.rglob("*")} == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_file_in_the_way_is_named(tmp_path: Path, scan: Volume, scores: Any, model: Any) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(InputError, match="a file, not a folder"):
        write_scan_outputs(tmp_path / "out", scan, scores, model, threshold=2.0)


def test_folder_names_come_from_the_series(scan: Volume) -> None:
    named = replace(scan, series=replace(scan.series, label="MR series 4 / T2*"))
    assert scan_folder_name(named) == "mr-series-4-t2"
    assert scan_folder_name(named, {"mr-series-4-t2"}) == "mr-series-4-t2-2"
    assert scan_folder_name(replace(scan, series=replace(scan.series, label="///"))) == "scan"


def test_a_montage_comes_with_the_files_where_asked(
    tmp_path: Path, scan: Volume, scores: Any, model: Any
) -> None:
    out = tmp_path / "out"
    files = write_scan_outputs(out, scan, scores, model, threshold=2.0, montage_too=True).files
    assert files["montage"].read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in out.iterdir()) == sorted([*OUTPUT_FILES.values(), "montage.png"])
