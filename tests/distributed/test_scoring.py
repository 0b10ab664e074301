"""Scans at any place, each once: in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from napari_spatial_ar.distributed import scoring
from napari_spatial_ar.distributed.cluster import here
from napari_spatial_ar.distributed.ledger import Ledger
from napari_spatial_ar.distributed.scoring import score_many
from napari_spatial_ar.distributed.storage import Storage
from napari_spatial_ar.errors import InputError, InUseError, StorageError
from napari_spatial_ar.imaging.files import locked
from napari_spatial_ar.review.batch import score_scans
from tests.distributed.conftest import NAMES, names_under
from tests.json_check import check

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Folder of each scan that is really scored."""
    calls: list[str] = []
    score = scoring.score_scan

    def count(volume: Any, model: Any, folder: Path, **options: Any) -> Any:
        calls.append(folder.name)
        return score(volume, model, folder, **options)

    monkeypatch.setattr(scoring, "score_scan", count)
    return calls


def run(scans: list[Path], model: Path, out: str, **options: Any) -> dict[str, Any]:
    return score_many(scans, model, out, threshold=1.0, device="cpu", montage=False, **options)


def test_results_are_those_of_a_plain_run(
    scans: list[Path], model: Path, tmp_path: Path, counted: list[str]
) -> None:
    out = tmp_path / "out"
    result = run(scans[:2], model, out.as_uri())
    options = {"threshold": 1.0, "device": "cpu", "montage": False}
    plain = score_scans(scans[:2], model, tmp_path / "plain", **options)
    assert [r["input"] for r in result["scans"]] == [str(path) for path in scans[:2]]
    for one, other in zip(result["scans"], plain["scans"], strict=True):
        assert one["findings"] == other["findings"]
        assert one["files"].keys() == other["files"].keys()
        for name in ("nll", "mask"):
            here_, there = (nib.load(p) for p in (out / one["files"][name], other["files"][name]))
            np.testing.assert_array_equal(here_.get_fdata(), there.get_fdata())
        for name in ("findings_csv", "findings_json"):
            written = (out / one["files"][name]).read_text()
            assert written == Path(other["files"][name]).read_text()
    assert result["threshold"] == plain["threshold"]
    assert result["calibration"] == plain["calibration"]
    assert not any(name in names_under(out) for name in NAMES)


def test_a_second_run_does_what_is_left(
    scans: list[Path], model: Path, tmp_path: Path, counted: list[str]
) -> None:
    out = tmp_path / "out"

    def stop(label: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(scans[:4], model, str(out), progress=stop)
    assert len(counted) == 2
    result = run(scans[:4], model, str(out))
    assert (len(counted), result["skipped"], len(result["scans"])) == (4, 2, 4)
    assert len(set(counted)) == 4
    assert run(scans[:4], model, str(out))["skipped"] == 4
    # A file that was lost or cut short, an entry that was: this scan is done again, no other.
    first, second, third, _ = result["scans"]
    (out / first["files"]["mask"]).unlink()
    with open(out / second["files"]["nll"], "r+b") as file:
        file.truncate(20)
    (entry,) = (out / "ledger").glob(f"{third['folder'].rpartition('-')[2]}*")
    check(json.loads(entry.read_text()), "ledger")
    entry.write_bytes(entry.read_bytes()[:40])
    again = run(scans[:4], model, str(out))
    assert again["skipped"] == 1
    assert counted[4:] == [first["folder"], second["folder"], third["folder"]]
    assert (out / first["files"]["mask"]).is_file()
    assert again["scans"] == result["scans"]


def test_a_folder_is_one_commands_at_a_time(
    scans: list[Path], model: Path, tmp_path: Path, counted: list[str]
) -> None:
    out = tmp_path / "out"
    for storage in (str(out), out.as_uri()):
        with locked(out), pytest.raises(InUseError, match="another process is writing"):
            run(scans[:1], model, storage)
    assert counted == []
    # What a killed one left goes, in the ledger too.
    for folder in ("ledger", "nifti-old", "."):
        (out / folder).mkdir(parents=True, exist_ok=True)
        (out / folder / f".partial-{'4' * 32}.json").write_text("half")
    run(scans[:1], model, str(out))
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    assert not (out / "nifti-old").exists()


def test_other_settings_are_another_job(
    scans: list[Path], model: Path, tmp_path: Path, counted: list[str]
) -> None:
    out = str(tmp_path / "out")
    run(scans[:1], model, out)
    with pytest.raises(InputError, match="another model or other settings"):
        score_many(scans[:1], model, out, threshold=2.0, device="cpu", montage=False)
    options: dict[str, Any] = {"threshold": 2.0, "device": "cpu", "montage": False}
    score_many(scans[:1], model, out, overwrite=True, **options)
    assert len(counted) == 2
    score_many(scans[:1], model, out, overwrite=True, **options)
    assert len(counted) == 2  # what has been overwritten is finished


def test_a_changed_scan_is_another_scan(
    scans: list[Path], model: Path, tmp_path: Path, counted: list[str]
) -> None:
    copy = tmp_path / "a.nii.gz"
    copy.write_bytes(scans[0].read_bytes())
    out = str(tmp_path / "out")
    run([copy, copy], model, out)
    assert len(counted) == 1
    copy.write_bytes(scans[1].read_bytes())
    run([copy], model, out)
    assert len(counted) == 2


def test_any_place_that_fsspec_reaches(scans: list[Path], model: Path, counted: list[str]) -> None:
    url = "memory://results/one"
    result = run(scans[:2], model, url)
    files = fsspec.filesystem("memory")
    for record in result["scans"]:
        for name in record["files"].values():
            assert files.size(f"/results/one/{name}") > 0
    assert run(scans[:2], model, url)["skipped"] == 2
    files.rm(f"/results/one/{result['scans'][1]['files']['nll']}")
    assert run(scans[:2], model, url)["skipped"] == 1
    assert len(counted) == 3


def test_bad_scans_are_said_and_the_others_done(
    scans: list[Path], model: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.nii"
    bad.write_bytes(b"no scan")
    out = str(tmp_path / "out")
    result = run([bad, tmp_path / "absent", scans[0]], model, out)
    assert len(result["scans"]) == 1
    assert [any(w in s for s in result["failed"]) for w in ("bad.nii", "absent")] == [True, True]
    with pytest.raises(InputError, match=r"bad\.nii"):
        run([bad], model, out)


def test_places_that_cannot_be_used(
    scans: list[Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="locations that begin with nowhere:// are not supported"):
        Storage.of("nowhere://a/b")
    with pytest.raises(InputError, match="private to each process"):
        run(scans, model, "memory://a", run=lambda *_: iter(()))
    (tmp_path / "file").write_text("")
    with pytest.raises((InputError, StorageError)):
        run(scans[:1], model, str(tmp_path / "file"))


def test_text_of_a_task_names_nobody(scans: list[Path], model: Path, tmp_path: Path) -> None:
    tasks = list(scoring._Plan(scans, Ledger(Storage.of(str(tmp_path))), "", False, False))
    assert len({task.key for task in tasks}) == len(scans)
    assert not any(name in repr(tasks) for name in NAMES)
    assert json.dumps([task.folder for task in tasks]).count("nifti") == len(scans)


def test_here_goes_on_after_an_error() -> None:
    class Task:
        key = "a"

    def fail(task: Task, shared: str) -> None:
        raise InputError(shared)

    (found,) = here(fail, iter([Task()]), "is damaged")
    assert isinstance(found[1], InputError)
    (found,) = here(lambda task, shared: {}[shared], iter([Task()]), "doe")
    assert str(found[1]) == "A scan failed with KeyError."
