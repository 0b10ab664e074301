"""A second run into a folder of results: what it skips, replaces, refuses and never touches."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from napari_spatial_ar.errors import InputError, InUseError, StorageError
from napari_spatial_ar.imaging.files import locked
from napari_spatial_ar.imaging.reading import find_scans
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.scores import ScanScores
from napari_spatial_ar.review import batch, outputs
from napari_spatial_ar.review.earlier import (
    EarlierResults,
    StoredResults,
    results_folder,
    scan_sha256,
)
from napari_spatial_ar.review.masks import MaskSettings
from napari_spatial_ar.review.outputs import OUTPUT_FILES, write_scan_outputs
from napari_spatial_ar.review.provenance import recorded_algorithm, voxels_sha256
from tests.fake_model import FakeModel

NAME = "nifti-scan-12-x-9-x-4"


def write(path: Path, seed: int = 0, shape: tuple[int, int, int] = (12, 9, 4)) -> Path:
    voxels = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2, 3, 1])), path)
    return path


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the folders of scans that are really scored, each voxel by itself."""
    calls: list[str] = []
    backbone = SimpleNamespace(source="here", engine="float32")
    model: Any = FakeModel("brain", sha256="ab" * 32, unit="nats", backbone=backbone)
    model.calibrated = False
    model.use_engine = lambda engine: None

    def score(volume: Scan, loaded: Any, folder: Path, *, threshold: float, **options: Any) -> Any:
        for key in ("progress", "reported", "montage"):
            options.pop(key, None)
        calls.append(folder.name)
        data, count = np.asarray(volume.data), volume.geometry.slice_count
        scores = ScanScores(data, volume.geometry, np.ones(count, bool), np.ones(count, np.float32))
        written = write_scan_outputs(folder, volume, scores, loaded, threshold=threshold, **options)
        return outputs.in_folder(written.summary, folder)

    monkeypatch.setattr(batch, "load_model", lambda *_, **__: model)
    monkeypatch.setattr(batch, "score_scan", score)
    return calls


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, scored: list[str]) -> Run:
    def score(*inputs: Path, out: Path = tmp_path / "out", **options: Any) -> dict[str, Any]:
        return batch.score_scans(inputs, "brain", out, **{"threshold": 1.0, **options})

    return score


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_command_skips_what_is_finished(
    tmp_path: Path, run: Run, scored: list[str]
) -> None:
    a, b = write(tmp_path / "DOE_JANE.nii", 1), write(tmp_path / "b.nii", 2, (6, 6, 4))
    result = run(a, b)
    before = content(tmp_path / "out")
    assert result["skipped"] == 0
    again = run(a, b)
    assert again == {**result, "skipped": 2}
    assert len(scored) == 2
    assert content(tmp_path / "out") == before
    # Where a scan lies and what it is called does not matter; what else is scored neither.
    moved = a.rename(tmp_path / "ROE.nii")
    third = write(tmp_path / "c.nii", 3, (5, 5, 5))
    more = run(third, moved)
    assert (more["skipped"], len(scored)) == (1, 3)
    assert [r["input"] for r in more["scans"]] == [str(third), str(moved)]
    assert more["scans"][1]["folder"] == result["scans"][0]["folder"]
    text = b"".join(content(tmp_path / "out").values())
    assert b"DOE" not in text
    assert b"ROE" not in text


def test_scans_of_one_name_never_share_a_folder(
    tmp_path: Path, run: Run, scored: list[str]
) -> None:
    paths = [write(tmp_path / f"{n}.nii", n) for n in range(3)]
    keys = [scan_sha256(find_scans(path).scans[0]) for path in paths]
    result = run(*paths)
    names = [NAME, *(f"{NAME}-{key[:8]}" for key in keys[1:])]
    assert [Path(r["folder"]).name for r in result["scans"]] == names
    for path, record in zip(paths, result["scans"], strict=True):
        theirs = nib.load(record["files"]["nll"]).get_fdata(dtype=np.float32)
        np.testing.assert_array_equal(theirs, nib.load(path).get_fdata(dtype=np.float32))
    # One after the other, in any order, asked to overwrite or not.
    alone = tmp_path / "alone"
    for path in reversed(paths):
        run(path, out=alone, overwrite=True)
    before = content(alone)
    assert sorted(p.name for p in alone.iterdir()) == sorted(
        [NAME, *(f"{NAME}-{key[:8]}" for key in keys[:2])]
    )
    assert run(*paths, out=alone)["skipped"] == 3
    assert content(alone) == before
    assert len(scored) == 6


def test_a_scan_that_changed_is_another_scan(tmp_path: Path, run: Run, scored: list[str]) -> None:
    path = write(tmp_path / "a.nii", 1)
    first = run(path)["scans"][0]
    before = content(Path(first["folder"]))
    write(path, 2)
    second = run(path)["scans"][0]
    assert second["folder"] != first["folder"]
    assert content(Path(first["folder"])) == before


def test_a_scan_given_twice_is_scored_once_and_told_twice(
    tmp_path: Path, run: Run, scored: list[str]
) -> None:
    a = write(tmp_path / "a.nii", 1)
    copy = tmp_path / "copy.nii"
    copy.write_bytes(a.read_bytes())
    result = run(a, copy)
    assert len(scored) == 1
    assert [r["input"] for r in result["scans"]] == [str(a), str(copy)]
    assert len({r["folder"] for r in result["scans"]}) == 1


@pytest.mark.parametrize(
    "changed", [{"threshold": 1.5}, {"settings": MaskSettings(min_size_mm3=5)}, {"png": True}]
)
def test_other_settings_are_refused_unless_asked(
    tmp_path: Path, run: Run, scored: list[str], changed: dict[str, Any]
) -> None:
    path = write(tmp_path / "a.nii")
    run(path)
    before = content(tmp_path / "out")
    with pytest.raises(InputError, match="an earlier run with another model or other settings"):
        run(path, **changed)
    assert content(tmp_path / "out") == before
    assert run(path, overwrite=True, **changed)["skipped"] == 0
    assert run(path, overwrite=True, **changed)["skipped"] == 1  # so that it goes on as well
    assert scored == [NAME, NAME]


def test_what_is_missing_is_written_again_and_what_was_changed_is_not_lost(
    tmp_path: Path, run: Run, scored: list[str]
) -> None:
    path = write(tmp_path / "a.nii")
    record = run(path)["scans"][0]
    before = content(tmp_path / "out")
    Path(record["files"]["mask"]).unlink()
    assert run(path)["skipped"] == 0
    assert {k: v for k, v in content(tmp_path / "out").items() if "provenance" not in k} == {
        k: v for k, v in before.items() if "provenance" not in k
    }
    table = Path(record["files"]["findings_csv"])
    table.write_text("noted by hand")
    with pytest.raises(InputError, match=r"findings\.csv: has changed since an earlier run"):
        run(path)
    assert table.read_text() == "noted by hand"
    run(path, overwrite=True)
    assert table.read_bytes() == before[f"{NAME}/findings.csv"]
    assert len(scored) == 3


def test_results_that_are_not_of_score(tmp_path: Path, run: Run, scored: list[str]) -> None:
    """Exported by hand, or by an earlier version: known by their voxels."""
    a, b = write(tmp_path / "a.nii", 1), write(tmp_path / "b.nii", 2)
    folder = Path(run(a)["scans"][0]["folder"])
    record = json.loads((folder / "provenance.json").read_text())
    for key in ("run", "files", "summary"):
        del record[key]
    (folder / "provenance.json").write_text(json.dumps(record))
    before = content(folder)
    with pytest.raises(InputError, match="results of an earlier run are in this folder"):
        run(a)
    assert len(scored) == 1  # said before it is scored
    other = run(b, overwrite=True)["scans"][0]
    assert other["folder"] != str(folder)
    assert content(folder) == before
    run(a, overwrite=True)
    assert run(a, b)["skipped"] == 2
    # Without a record nobody knows whose they are.
    (folder / "provenance.json").unlink()
    assert run(a, overwrite=True)["scans"][0]["folder"] not in (str(folder), other["folder"])


def test_results_of_an_earlier_version_are_finished_all_the_same(
    tmp_path: Path, run: Run, scored: list[str]
) -> None:
    """Without a schema, and with one name for every threshold and heatmap."""
    raw = tmp_path / "raw"
    path = write(raw / "sub-1" / "sub-1_FLAIR.nii", 1)
    (raw / "dataset_description.json").write_text("{}")
    first = run(path, report=True)
    folder = Path(first["scans"][0]["folder"])
    record = json.loads((folder / "provenance.json").read_text())
    del record["schema"], record["summary"]["unit"]
    record["threshold"]["nats_per_dimension"] = record["threshold"].pop("score")
    for key in ("score", "findings"):
        name = record["summary"]["files"].pop(key)
        del record["files"][name]
        (folder / name).unlink()
    (folder / "provenance.json").write_text(json.dumps(record))
    (tmp_path / "out/report.html").unlink()
    again = run(path, report=True, bids=True)
    assert (again["skipped"], len(scored)) == (1, 1)
    assert again["scans"][0]["unit"] == "nats"
    assert "Threshold" in (tmp_path / "out/report.html").read_text()
    (sentence,) = again["without_bids"]
    assert sentence.endswith("its results are of an earlier version: score it again.")
    made = recorded_algorithm(folder / "mask.nii.gz")
    assert made is not None
    assert made[0].parameters["threshold"] == "1 nats"


def test_an_export_never_goes_into_another_scans_folder(
    tmp_path: Path, scan: Scan, scores: Any, model: Any
) -> None:
    other = replace(scan, voxels=scan.data + 1)
    first = results_folder(tmp_path / "out", scan)
    assert first.name == outputs.scan_folder_name(scan)
    write_scan_outputs(first, scan, scores, model, threshold=2.0)
    assert results_folder(tmp_path / "out", scan) == first
    second = results_folder(tmp_path / "out", other)
    assert second.name == f"{first.name}-{voxels_sha256(other)[:8]}"
    write_scan_outputs(second, other, scores, model, threshold=2.0)
    assert results_folder(tmp_path / "out", other) == second
    # Files without a record may be the scan's: whoever exports is asked.
    (first / "provenance.json").unlink()
    assert results_folder(tmp_path / "out", other) == first


@pytest.mark.parametrize("damage", ["", "null", "{", '{"scan": 3}', '{"scan": {}, "run": []}'])
def test_a_record_that_cannot_be_understood_is_none(tmp_path: Path, damage: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "provenance.json").write_text(damage)
    kept = StoredResults.of(tmp_path / "a")
    assert kept is None or kept.scan == ""
    assert EarlierResults(tmp_path).of("") is None


def test_a_folder_in_use_is_refused_before_anything_is_read(tmp_path: Path, run: Run) -> None:
    path = write(tmp_path / "a.nii")
    with locked(tmp_path / "out"), pytest.raises(InUseError, match="another process is writing"):
        run(path)
    assert not (tmp_path / "out").exists()


def test_leftovers_of_a_killed_run_go(tmp_path: Path, run: Run, scored: list[str]) -> None:
    path, out = write(tmp_path / "a.nii"), tmp_path / "out"
    partial = f".partial-{'3' * 32}"
    for folder in (out, out / "nifti-scan-5", out / "empty", out / "mine"):
        folder.mkdir(exist_ok=True)
    for left in (
        out / f"{partial}.html",
        out / "nifti-scan-5" / partial / "results" / "nll.nii.gz",
    ):
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_bytes(b"half")
    (out / "nifti-scan-5" / ".napari-spatial-ar.lock").touch()
    (out / "mine" / ".hidden").touch()
    run(path)
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if NAME not in str(p)) == [
        "empty",
        "mine",
        "mine/.hidden",
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("existing", [False, True])
def test_a_process_killed_at_any_move_leaves_one_run_or_the_other(
    tmp_path: Path, scan: Scan, scores: Any, model: Any, existing: bool
) -> None:
    replace = os.replace

    def killed_at(number: int, out: Path) -> bool:
        def move(source: Path, target: Path) -> None:
            nonlocal number
            if not number:
                os.kill(os.getpid(), signal.SIGKILL)
            number -= 1
            replace(source, target)

        child = os.fork()
        if not child:
            try:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(os, "replace", move)
                    write_scan_outputs(out, scan, scores, model, threshold=2.0, overwrite=True)
            finally:
                os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0

    whole = tmp_path / "whole"
    write_scan_outputs(whole, scan, scores, model, threshold=2.0)
    new = {name: data for name, data in content(whole).items() if name != "provenance.json"}
    earlier = tmp_path / "earlier"
    if existing:
        write_scan_outputs(earlier, scan, scores, model, threshold=9.0, png=True)
    ends, number, killed = set(), 0, True
    while killed:
        out = tmp_path / f"out{number}"
        if existing:
            shutil.copytree(earlier, out)
        old = content(out)
        killed = killed_at(number, out)
        with locked(out):
            outputs.finish_interrupted(out)
        found = content(out)
        ends.add(found == old)
        if found != old:
            del found["provenance.json"]
            assert found == new
        number += 1
    assert ends == {True, False}
    assert number > 2 * len(OUTPUT_FILES)


def test_a_full_disk_stops_the_run_and_it_goes_on(
    tmp_path: Path, run: Run, scored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write(tmp_path / f"{n}.nii", n) for n in range(3)]
    whole = run(*paths, out=tmp_path / "whole")
    mask = outputs.write_findings_json

    def full(path: Path, *arguments: Any, **options: Any) -> None:
        if len(scored) == 5:
            raise OSError(28, "No space left on device")
        mask(path, *arguments, **options)

    monkeypatch.setattr(outputs, "write_findings_json", full)
    with pytest.raises(StorageError, match="disk is full"):
        run(*paths)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [NAME]
    monkeypatch.setattr(outputs, "write_findings_json", mask)
    result = run(*paths)
    assert (result["skipped"], len(scored)) == (1, 7)
    for one, other in zip(result["scans"], whole["scans"], strict=True):
        for name in ("nll", "mask", "findings_csv", "findings_json"):
            assert Path(one["files"][name]).read_bytes() == Path(other["files"][name]).read_bytes()
