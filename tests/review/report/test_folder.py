"""The report of a worklist, from what is kept on disk of its scans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_spatial_ar import steps as work
from napari_spatial_ar.imaging.reading import find_scans
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.review.findings import Mark
from napari_spatial_ar.review.report.data import FolderReport
from napari_spatial_ar.review.report.folder import worklist_steps
from napari_spatial_ar.review.report.html import folder_page
from napari_spatial_ar.review.strokes import Strokes
from napari_spatial_ar.review.worklist.entries import Entry
from napari_spatial_ar.review.worklist.scoring import MaskRule
from napari_spatial_ar.review.worklist.store import Marks, WorklistStore, model_key, scan_key
from tests.fake_model import FakeModel
from tests.page import Page
from tests.review.worklist.test_worklist import Model, run, write_scan


@pytest.fixture
def store(tmp_path: Path) -> WorklistStore:
    return WorklistStore(tmp_path / "kept")


@pytest.fixture
def model() -> FakeModel:
    return Model()


def listed_scan(path: Path, bright: float) -> tuple[Entry, Scan]:
    (scan,) = find_scans(write_scan(path, bright)).scans
    return Entry(scan_key(scan), f"scan {bright:g}", path.name, scan.geometry.slice_count), scan


def finish(steps: Any) -> tuple[list[int], FolderReport]:
    told: list[int] = []
    made = work.finish(steps, told.append)
    return told, made


def test_scans_are_reported_with_status_comment_and_strokes(
    tmp_path: Path, store: WorklistStore, model: FakeModel
) -> None:
    low, high = (listed_scan(tmp_path / f"DOE_{b}.nii.gz", b) for b in (90, 120))
    entries = []
    for entry, scan in (low, high):
        _, summary = run(model, scan, store)
        entries.append((entry.scored(summary), scan))
    shape = high[1].geometry.shape
    inside = np.zeros(shape, bool)
    inside[2:4, 5:9, 4:9] = True
    region = np.flatnonzero(inside)
    alone = np.ravel_multi_index((0, 1, 1), shape)
    marks = Marks((Mark(region, "keep", "looks old"),), Strokes(np.array([alone]), region[:3]))
    store.save_marks(high[0].key, model_key(model), marks)
    entries[1] = replace(entries[1][0], reading="done"), high[1]
    waiting = listed_scan(tmp_path / "DOE_7.nii.gz", 70)
    # The worker has it at hand: what is kept of it is not all.
    begun = replace(waiting[0], state="scored", done=2), waiting[1]
    broken = Entry("!1", "Not read", "DOE_X.nii").failed("DOE_X.nii: is damaged.", "Is damaged.")
    steps = worklist_steps([*entries, begun, (broken, None)], model, store, MaskRule(0.5), fpr=0.1)
    told, report = finish(steps)
    assert told[0] == 0
    assert told[-1] == 4
    assert told == sorted(told)
    first, second, *rest = report.ranked
    assert [e.label for e in (first, second)] == ["scan 120", "scan 90"]
    assert [e.trouble for e in rest] == ["2 of 6 slices are scored so far.", "Is damaged."]
    kept, painted = first.report.items
    assert (kept.status, kept.comment, kept.finding.voxels) == ("keep", "looks old", 40 - 3)
    assert (painted.status, painted.finding.voxels) == ("unread", 1)
    assert first.report.record["threshold"]["mask_edited_by_hand"] is True
    assert second.report.record["threshold"]["mask_edited_by_hand"] is False
    assert first.report.record["threshold"]["share_of_normal_tissue_flagged"] == 0.1
    page = Page(folder_page(report))
    page.check_alone()
    assert "looks old" in page.text
    assert "DOE" not in page.text
    assert page.rows[1][-1] == "done"
    assert [attrs for tag, attrs in page.tags if tag == "details"] == [{}, {}]


def test_the_report_of_one_scan_is_unfolded(
    tmp_path: Path, store: WorklistStore, model: FakeModel
) -> None:
    entry, scan = listed_scan(tmp_path / "DOE_90.nii.gz", 90)
    _, summary = run(model, scan, store)
    broken = Entry("!1", "Not read", "DOE_X.nii").failed("DOE_X.nii: is damaged.", "Is damaged.")
    pairs = [(entry.scored(summary), scan), (broken, None)]
    _, report = finish(worklist_steps(pairs, model, store, MaskRule(0.5)))
    page = Page(folder_page(report))
    assert [attrs for tag, attrs in page.tags if tag == "details"] == [{"open": None}]


def test_a_scan_that_is_gone_says_so_and_the_others_go_on(
    tmp_path: Path, store: WorklistStore, model: FakeModel
) -> None:
    entries = []
    for bright in (90, 120):
        entry, scan = listed_scan(tmp_path / f"DOE_{bright}.nii.gz", bright)
        _, summary = run(model, scan, store)
        entries.append((entry.scored(summary), scan))
    (tmp_path / "DOE_120.nii.gz").unlink()
    _, report = finish(worklist_steps(entries, model, store, MaskRule(0.5)))
    there, gone = report.ranked
    assert there.label == "scan 90"
    assert there.report is not None
    assert gone.report is None
    assert gone.trouble
    assert "DOE" not in gone.trouble
