"""Order of need, sorting and what stays on disk of a worklist, through kills and restarts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_spatial_ar.errors import InputError, InUseError, StorageError
from napari_spatial_ar.imaging import files
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.nifti import write_nifti
from napari_spatial_ar.imaging.reading import find_scans
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.calibration.calibration import scan_score
from napari_spatial_ar.normative.scores import ScanScores, SliceScore
from napari_spatial_ar.review.findings import Mark
from napari_spatial_ar.review.masks import MaskSettings
from napari_spatial_ar.review.strokes import Refined, Strokes
from napari_spatial_ar.review.worklist.entries import (
    Entry,
    Summary,
    next_unread,
    order_of_need,
    overview,
    sort_value,
    toggled,
)
from napari_spatial_ar.review.worklist.scoring import MaskRule, score_steps
from napari_spatial_ar.review.worklist.store import (
    Marks,
    Record,
    WorklistStore,
    model_key,
    scan_key,
)
from napari_spatial_ar.steps import finish
from tests.fake_model import FakeModel

SHAPE = (6, 20, 16)


Model = partial(FakeModel, "brain", sha256="ab" * 32, base=0.0, calibrated=False)


def write_scan(path: Path, bright: float = 100, shape: tuple[int, int, int] = SHAPE) -> Path:
    data = np.full(shape, 20, np.float32)
    data[2:4, 5:9, 4:9] = bright
    write_nifti(path, data, Geometry(shape, np.diag([-1.0, -1.5, 3.0, 1.0])))
    return path


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    return find_scans(write_scan(tmp_path / "DOE_JANE.nii.gz")).scans[0]


@pytest.fixture
def store(tmp_path: Path) -> WorklistStore:
    return WorklistStore(tmp_path / "kept")


def run(model: FakeModel, scan: Scan, store: WorklistStore, rule: MaskRule | None = None) -> Any:
    steps = score_steps(model, scan, scan_key(scan), store, lambda: rule or MaskRule(0.5))
    told: list[tuple[int, int]] = []
    summary = finish(steps, told.append)
    return told, summary


# ---------------------------------------------------------------------- need and order


def test_the_scan_being_looked_at_comes_first_then_begun_then_unread() -> None:
    entries = [
        Entry("read", "a", reading="done"),
        Entry("new", "b"),
        Entry("begun", "c", slices=9, done=3),
        Entry("scored", "d", state="scored"),
        Entry("failed", "e", state="failed"),
        Entry("at hand", "f", state="scoring", done=1, reading="seen"),
    ]
    assert order_of_need(entries) == ["begun", "new", "at hand", "read"]
    assert order_of_need(entries, "read") == ["read", "begun", "new", "at hand"]
    assert order_of_need(entries, "scored")[0] == "begun"


def test_why_a_scan_failed_is_kept_until_it_is_scored_or_tried_again(store: WorklistStore) -> None:
    store.save_reading("k", "seen")
    store.save_failure("k", "m", "It is damaged.")
    assert store.record("k", "m") == Record("seen", 0, None, "It is damaged.")
    assert store.record("k", "other").failure == ""
    again = WorklistStore(store.folder)
    assert again.record("k", "m").failure == "It is damaged."
    geometry = Geometry(SHAPE, np.eye(4))
    again.save_scores("k", "m", ScanScores.empty(geometry), Summary(1.0))
    assert again.record("k", "m").failure == ""
    again.save_failure("l", "m", "It is damaged.")
    again.forget_failure("l", "m")
    again.forget_failure("never", "m")
    assert again.record("l", "m") == Record()
    (store.folder / "k" / "n.failed.json").write_text('{"format": 1, "reason": 7}')
    assert store.record("k", "n").failure == ""


def test_what_failed_waits_again_and_nothing_else() -> None:
    failed = Entry("a", "a", done=3).failed("a.nii is damaged.", "It is damaged.")
    assert failed.again() == Entry("a", "a", done=3)
    scored = Entry("b", "b", state="scored")
    assert scored.again() is scored


def test_what_has_no_value_sorts_as_none_and_states_by_progress() -> None:
    entry = Entry("k", "NIfTI scan", slices=10)
    assert sort_value(entry, "score") is None
    assert sort_value(entry, "p") is None
    scored = entry.scored(Summary(2.5, 0.1, 9, 3, 1.0))
    assert sort_value(scored, "score") == 2.5
    assert sort_value(scored, "findings") == 3
    begun, further = entry.at(2, 10), entry.at(8, 10)
    in_order = sorted([scored, entry, begun, further], key=lambda e: sort_value(e, "state"))
    assert in_order == [further, begun, entry, scored]
    assert scored.done == 10
    assert further.set_down().state == "waiting"
    assert scored.set_down() is scored


def test_next_unread_goes_on_from_the_one_at_hand_and_round_the_end() -> None:
    shown = [
        Entry("a", "a"),
        Entry("b", "b", reading="seen"),
        Entry("c", "c", state="failed"),
        Entry("d", "d"),
    ]
    assert next_unread(shown) == "a"
    assert next_unread(shown, "a") == "d"
    assert next_unread(shown, "d") == "a"
    assert next_unread(shown[1:3]) is None
    assert next_unread(shown[:1], "a") is None


def test_done_again_takes_it_back_and_the_line_counts() -> None:
    assert toggled("unread") == toggled("seen") == "done"
    assert toggled("done") == "seen"
    entries = [
        Entry("a", "a", state="scored", reading="done"),
        Entry("b", "b"),
        Entry("c", "c", state="failed"),
    ]
    assert overview(entries) == "1 of 3 scored, 1 failed, 1 done, 1 unread"


# ---------------------------------------------------------------------- what a scan is known by


def test_a_scan_is_known_by_its_content_wherever_it_lies(tmp_path: Path, scan: Scan) -> None:
    moved = tmp_path / "elsewhere" / "another name.nii.gz"
    moved.parent.mkdir()
    shutil.copy(scan.series.files[0], moved)
    assert scan_key(find_scans(moved).scans[0]) == scan_key(scan)
    changed = write_scan(tmp_path / "changed.nii.gz", bright=101)
    assert scan_key(find_scans(changed).scans[0]) != scan_key(scan)
    scan.series.files[0].unlink()
    with pytest.raises(InputError, match="cannot be read"):
        scan_key(scan)


@pytest.mark.parametrize("value", [0, -1024])
def test_uncompressed_scans_whose_ends_are_air_are_told_apart(
    tmp_path: Path, store: WorklistStore, value: int
) -> None:
    import nibabel as nib

    scans = []
    for number in range(2):
        data = np.full((64, 64, 40), value, np.int16)
        data[30, 30, 20] = number + 1
        nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / f"{number}.nii")
        scans += find_scans(tmp_path / f"{number}.nii").scans
    first, second = map(scan_key, scans)
    assert first != second
    before = first.partition("-")[0]
    assert second.startswith(f"{before}-")
    # What an earlier version kept is found, by the one that comes first.
    WorklistStore(store.folder).save_reading(before, "done")
    assert store.record(first, "m").reading == "done"
    assert store.record(second, "m").reading == "unread"
    assert store.record(f"{first}-2", "m").reading == "unread"
    # Not where two scans were the same to it.
    other = WorklistStore(store.folder.with_name("other"))
    for key in (before, f"{before}-2"):
        other.save_reading(key, "done")
    assert other.record(first, "m").reading == "unread"


def test_one_window_at_a_time_has_a_scan(store: WorklistStore) -> None:
    other = WorklistStore(store.folder)
    with store.hold("k"):
        with pytest.raises(InUseError, match="open, or being scored, in another window"):
            other.hold("k").__enter__()
        with other.hold("l"):
            pass
        store.save_reading("k", "done")
    with other.hold("k"):
        # What is done is not undone by looking.
        assert other.see("k") == "done"
    assert (other.see("l"), store.record("l", "m").reading) == ("seen", "seen")


def test_a_scan_can_be_looked_at_where_nothing_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file, where a folder should be")
    store = WorklistStore(tmp_path / "kept")
    with store.hold("k"), pytest.raises(StorageError):
        store.save_reading("k", "done")


def test_volumes_of_one_file_are_told_apart(tmp_path: Path) -> None:
    import nibabel as nib

    data = np.random.default_rng(0).normal(size=(8, 9, 5, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "run.nii")
    scans = find_scans(tmp_path / "run.nii").scans
    assert len({scan_key(scan) for scan in scans}) == len(scans) == 3


def test_nothing_kept_names_a_patient_or_a_file(
    scan: Scan, store: WorklistStore, tmp_path: Path
) -> None:
    run(Model(), scan, store)
    store.save_reading(scan_key(scan), "done")
    kept = [path for path in store.folder.rglob("*") if path.is_file()]
    assert len(kept) == 3
    for path in kept:
        assert b"DOE" not in path.read_bytes() + str(path.relative_to(tmp_path)).encode()


# ---------------------------------------------------------------------- scoring and resuming


def test_a_scan_is_scored_from_the_middle_and_summed_up(scan: Scan, store: WorklistStore) -> None:
    model = Model()
    told, summary = run(model, scan, store)
    assert model.asked[:3] == [3, 2, 4]
    assert told[0] == (0, 6)
    assert told[-1] == (6, 6)
    assert summary.findings == 1
    assert summary.score == pytest.approx(scan_score([0.2, 0.2, 1, 1, 0.2, 0.2]))
    assert summary.threshold == 0.5
    assert store.record(scan_key(scan), model_key(model)) == Record("unread", 6, summary)
    kept = store.load_scores(scan_key(scan), model_key(model), scan.geometry)
    assert np.allclose(kept.nll, scan.read().data / 100)
    # Nothing is scored twice, not even where only the summary is missing.
    again = Model()
    (store.folder / scan_key(scan) / f"{model_key(model)}.json").unlink()
    assert run(again, scan, store) == ([(6, 6)], summary)
    assert again.asked == []


def test_findings_follow_the_rule_and_mm_do_not_count_without_mm(
    scan: Scan, store: WorklistStore
) -> None:
    large = MaskRule(0.5, MaskSettings(min_size_mm3=1e6))
    assert run(Model(), scan, store, large)[1].findings == 0
    flat = replace(scan, geometry=replace(scan.geometry, spacing_known=False))
    assert run(Model(sha256="cd" * 32), flat, store, large)[1].findings == 1
    assert run(Model(sha256="ef" * 32), scan, store, MaskRule())[1].findings is None


@pytest.mark.parametrize("how", ["closed", "error"])
def test_what_is_scored_is_kept_however_it_ends(scan: Scan, store: WorklistStore, how: str) -> None:
    model = Model(fails_at=None if how == "closed" else 1)
    steps = score_steps(model, scan, scan_key(scan), store, MaskRule)
    if how == "closed":
        for _ in range(4):
            next(steps)
        steps.close()
    else:
        with pytest.raises(InputError, match="damaged"):
            list(steps)
    begun = len(model.asked)
    assert 0 < begun < 6
    assert store.record(scan_key(scan), model_key(model)) == Record("unread", begun, None)
    rest = Model()
    told, summary = run(rest, scan, store)
    assert told[0] == (begun, 6)
    assert sorted(model.asked + rest.asked) == list(range(6))
    assert summary.findings == 1


def test_empty_slices_count_as_seen_but_not_as_scored(scan: Scan, store: WorklistStore) -> None:
    scores = ScanScores.empty(scan.geometry)
    rows = scan.geometry.to_slices(scores.nll)[0]
    scores.put(0, SliceScore(np.zeros_like(rows), rows, float("nan")))
    store.save_scores("a", "m", scores)
    found = store.load_scores("a", "m", scan.geometry)
    assert found.visited[0]
    assert not found.scored.any()
    assert found.left == [1, 2, 3, 4, 5]


# ---------------------------------------------------------------------- files


def test_marks_and_strokes_come_back_voxel_by_voxel(store: WorklistStore) -> None:
    marks = (
        Mark(np.array([3, 4, 5, 9]), "keep", "oedema?"),
        Mark(np.array([100]), "reject"),
        Mark(np.empty(0, np.int64), "unread"),
    )
    outline = Refined(np.array([3, 4]), np.array([5]), np.array([6]))
    strokes = Strokes(np.array([0, 1, 2]), np.array([7]), (outline,))
    store.save_marks("a", "m", Marks(marks, strokes))
    found = store.load_marks("a", "m", (6, 5, 4))
    assert [(m.voxels.tolist(), m.status, m.comment) for m in found.marks] == [
        (m.voxels.tolist(), m.status, m.comment) for m in marks
    ]
    assert found.strokes.painted.tolist() == [0, 1, 2]
    assert found.strokes.erased.tolist() == [7]
    (back,) = found.strokes.refined
    assert [back.kept.tolist(), back.added.tolist(), back.removed.tolist()] == [[3, 4], [5], [6]]
    # Of another grid, or another model, nothing is taken.
    assert store.load_marks("a", "m", (2, 5, 4)).marks == ()
    assert store.load_marks("a", "n", (6, 5, 4)).marks == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": 99, "reading": "done"}',
        '{"format": 1, "reading": "later"}',
        '{"format": 1, "reading": ["done"]}',
    ],
)
def test_a_file_that_cannot_be_understood_counts_as_not_there(
    store: WorklistStore, text: str
) -> None:
    (store.folder / "a").mkdir(parents=True)
    (store.folder / "a" / "reading.json").write_text(text)
    assert store.record("a", "m") == Record()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("reading.json", '{"format": 1, "reading": "read"}'),
        ("reading.json", '{"format": 2, "reading": "done"}'),
        ("reading.json", "[1]"),
        ("m.json", '{"format": 1, "done": -1, "summary": null}'),
        ("m.json", '{"format": 1, "done": 3, "summary": {"score": "high", "patients": 1}}'),
        ("m.failed.json", '{"format": 1, "reason": 5}'),
        ("m.failed.json", '{"format": 1, "rea'),
    ],
)
def test_a_damaged_record_counts_as_not_there(store: WorklistStore, name: str, text: str) -> None:
    store.save_reading("k", "unread")
    (store.folder / "k" / "m.npz").touch()
    (store.folder / "k" / name).write_text(text)
    assert store.record("k", "m") == Record()
    assert store.see("k") == "seen"


@pytest.mark.parametrize(
    "marks",
    [
        [{"runs": [2**80, 1], "status": "keep", "comment": ""}],
        [{"runs": [2**63 - 1, 2], "status": "keep", "comment": ""}],
        [{"status": "keep", "comment": "", "runs": [5, 2, 3, 1]}],
        [{"status": "keep", "comment": "", "runs": [-1, 2]}],
        [{"status": "keep", "comment": "", "runs": [1]}],
        [{"status": "wrong", "comment": "", "runs": []}],
        ["keep"],
        7,
    ],
)
def test_damaged_marks_are_no_marks(store: WorklistStore, marks: Any) -> None:
    (store.folder / "a").mkdir(parents=True)
    (store.folder / "a" / "m.marks.json").write_text(json.dumps({"format": 1, "marks": marks}))
    assert store.load_marks("a", "m", SHAPE).marks == ()


def test_damaged_or_pickled_scores_are_scored_again(scan: Scan, store: WorklistStore) -> None:
    key, by = scan_key(scan), model_key(Model())
    run(Model(), scan, store)
    path = store.folder / key / f"{by}.npz"
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:40] + b"\0" * 40 + whole[80:], b""):
        path.write_bytes(damaged)
        assert store.load_scores(key, by, scan.geometry) is None
    count = scan.geometry.slice_count
    np.savez(
        path,
        format=np.array(1),
        nll=np.array([object()], dtype=object),
        visited=np.zeros(count, bool),
        image_scores=np.zeros(count),
    )
    assert store.load_scores(key, by, scan.geometry) is None
    model = Model()
    run(model, scan, store)
    assert len(model.asked) == 6
    path.unlink()
    assert store.record(key, by).summary is None


def test_a_write_that_fails_leaves_what_was(
    store: WorklistStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save_reading("a", "seen")

    def full(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(StorageError, match="disk is full"):
        store.save_reading("a", "done")
    assert store.record("a", "m").reading == "seen"
    assert [path.name for path in (store.folder / "a").iterdir()] == ["reading.json"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_write_leaves_what_was_and_scoring_resumes(
    scan: Scan, store: WorklistStore
) -> None:
    """A process is killed between writing the new scores and putting them in place."""
    model, key = Model(), scan_key(scan)
    steps = score_steps(model, scan, key, store, MaskRule)
    for _ in range(3):
        next(steps)
    steps.close()
    store.save_reading(key, "seen")
    child = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from napari_spatial_ar.imaging import files
        from napari_spatial_ar.imaging.reading import find_scans
        from napari_spatial_ar.review.worklist.scoring import MaskRule, score_steps
        from napari_spatial_ar.review.worklist.store import WorklistStore, scan_key
        from tests.review.worklist.test_worklist import Model

        files.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        scan = find_scans(Path(sys.argv[1])).scans[0]
        list(score_steps(Model(), scan, scan_key(scan), WorklistStore(Path(sys.argv[2])), MaskRule))
        """
    )
    arguments = [str(scan.series.files[0]), str(store.folder)]
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    ended = subprocess.run(
        [sys.executable, "-c", child, *arguments], env=environment, cwd=root, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    (partial,) = (store.folder / key).glob(".partial-*")
    os.utime(partial, (0, 0))
    assert store.record(key, model_key(model)) == Record("seen", 2, None)
    rest = Model()
    run(rest, scan, store)
    assert sorted(model.asked + rest.asked) == list(range(6))
    assert store.record(key, model_key(model)).summary is not None
    # What the killed process left lying about is gone.
    assert not partial.exists()
