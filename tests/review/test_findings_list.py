"""Status and comment stay with a region, whatever the threshold does meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.normative.calibration.calibration import Calibration, PatientPeaks
from napari_spatial_ar.review.findings import FindingsList, list_findings
from napari_spatial_ar.review.p_values import Extent, extent_of, normal_rank
from tests.fake_model import FakeModel, fake_header

GEOMETRY = Geometry((3, 20, 20), np.diag([-0.7, -1.3, 4.0, 1.0]))


def hills() -> Any:
    """Two hills with a saddle of 2 between their peaks of 6 and 5, a third one apart."""
    nll = np.zeros(GEOMETRY.shape, np.float32)
    nll[1, 4:9, 2:7] = 3
    nll[1, 6, 4] = 6
    nll[1, 4:9, 9:14] = 3
    nll[1, 6, 11] = 5
    nll[1, 6, 7:9] = 2
    nll[2, 15, 15] = 4
    return nll


def at(nll: Any, threshold: float, marks: Any = ()) -> FindingsList:
    return list_findings(nll > threshold, nll, GEOMETRY, marks=marks)


def statuses(found: FindingsList) -> list[str]:
    return [item.status for item in found.items]


def calibrated(
    shares: tuple[tuple[float, ...], ...], peaks: tuple[tuple[float, ...], ...] = ()
) -> Any:
    """Model whose patients' highest scores, if given, are of a voxel and of 1 % of the body."""
    made = Calibration((0.5, 0.1, 0.01), (1.0, 2.0, 3.0), (), 9, len(shares), (), shares)
    if peaks:
        made = replace(made, peaks=PatientPeaks((0.0, 0.01), peaks))
    return FakeModel(header=fake_header(calibration=made))


def test_diameter_volume_and_scores_agree_with_brute_force() -> None:
    rng = np.random.default_rng(3)
    nll = ndimage.gaussian_filter(rng.normal(size=GEOMETRY.shape), 1.2).astype(np.float32)
    mask = nll > np.quantile(nll, 0.8)
    found = list_findings(mask, nll, GEOMETRY)
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    assert len(found.items) == count > 3
    halves = np.array([[0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])
    for item in found.items:
        finding = item.finding
        inside = labels == finding.label
        assert np.array_equal(found.region(finding.label), np.flatnonzero(inside))
        longest = 0.0
        for plane in inside:
            # Every voxel of the slice with every other, between the middles of their edges.
            points = (np.argwhere(plane)[:, None] + halves).reshape(-1, 2) * [1.3, 0.7]
            if len(points):
                apart = points[:, None] - points
                longest = max(longest, float(np.sqrt((apart**2).sum(-1)).max()))
        assert finding.longest_diameter_mm == pytest.approx(longest)
        assert finding.volume_ml == pytest.approx(inside.sum() * 0.7 * 1.3 * 4 / 1000)
        assert finding.peak_score == nll[inside].max()
        assert finding.mean_score == pytest.approx(nll[inside].mean(), rel=1e-5)


def test_the_heir_of_a_finding_has_most_of_its_voxels() -> None:
    low, high = at(hills(), 1.5), at(hills(), 5.5)
    peaks = {item.finding.label: item.finding.peak_score for item in low.items}
    (top,) = (item.finding.label for item in high.items)
    assert peaks[low.heir(high, top)] == 6
    third = next(label for label, peak in peaks.items() if peak == 4)
    assert high.heir(low, third) is None


def test_a_comment_on_a_finding_that_is_gone_waits_for_it() -> None:
    nll = hills()
    low, high = at(nll, 1.5), at(nll, 5.5)
    third = next(item.finding.label for item in low.items if item.finding.peak_score == 4)
    kept = high.keep_comment(low, third, "cyst")
    assert [item.comment for item in kept.items] == [""]
    again = at(nll, 1.5, kept.marks)
    assert [item.comment for item in again.items] == ["", "cyst"]


def test_a_rejected_region_stays_rejected_as_it_shrinks_grows_and_returns() -> None:
    nll = hills()
    found = at(nll, 2.5)
    second = found.items[1].finding.label
    found = found.decide(second, status="reject", comment="vessel")
    assert statuses(found) == ["unread", "reject", "unread"]
    marks = found.marks
    for threshold, expected in ((4.5, ["unread", "reject"]), (9.0, []), (2.5, statuses(found))):
        later = at(nll, threshold, marks)
        assert statuses(later) == expected
    assert at(nll, 2.5, marks).items[1].comment == "vessel"
    nll[1, 4:9, 14:17] = 2.2
    grown = at(nll, 2.1, marks)
    assert grown.items[1].status == "reject"
    assert grown.items[1].finding.voxels == 25 + 15
    assert grown.items[1].note == ""


def test_rejected_voxels_leave_the_mask_and_come_back() -> None:
    nll = hills()
    found = at(nll, 2.5)
    label = found.items[0].finding.label
    gone = found.decide(label, status="reject")
    left = gone.without_rejected(nll > 2.5)
    assert left.sum() == 25 + 1
    assert not left[1, :, :8].any()
    assert [finding.rank for finding in gone.kept] == [2, 3]
    back = gone.decide(label, status="keep")
    assert np.array_equal(back.without_rejected(nll > 2.5), nll > 2.5)


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        ("reject", "keep", "keep"),
        ("unsure", "reject", "unsure"),
        ("keep", "unsure", "keep"),
        ("reject", "reject", "reject"),
    ],
)
def test_regions_that_merge_say_so_and_part_again_as_they_were(
    first: Any, second: Any, merged: str
) -> None:
    nll = hills()
    found = at(nll, 2.5)
    one, two = (item.finding.label for item in found.items[:2])
    found = found.decide(one, status=first, comment="a").decide(two, status=second, comment="b")
    joined = at(nll, 1.5, found.marks).items[0]
    assert joined.status == merged
    assert joined.comment == "a; b"
    assert joined.note.startswith("Merged from 2 regions (")
    assert joined.note.endswith(f"now {merged}.")
    apart = at(nll, 2.5, found.marks)
    assert [(i.status, i.comment) for i in apart.items[:2]] == [(first, "a"), (second, "b")]


def test_a_small_rejected_region_does_not_take_a_large_unread_one_with_it() -> None:
    nll = hills()
    nll[1, 4:9, 9:14] = 0
    nll[1, 6, 9:12] = 5
    found = at(nll, 2.5)
    assert [item.finding.voxels for item in found.items[:2]] == [25, 3]
    found = found.decide(found.items[1].finding.label, status="reject")
    joined = at(nll, 1.5, found.marks).items[0]
    assert joined.status == "unread"
    assert joined.note == "Merged from 2 regions (1 unread, 1 reject): now unread."
    small_first = at(nll, 2.5).decide(at(nll, 2.5).items[0].finding.label, status="reject")
    assert at(nll, 1.5, small_first.marks).items[0].status == "reject"


def test_parts_of_a_split_region_are_decided_apart() -> None:
    nll = hills()
    whole = at(nll, 1.5)
    whole = whole.decide(whole.items[0].finding.label, status="reject", comment="both")
    parts = at(nll, 2.5, whole.marks)
    assert statuses(parts) == ["reject", "reject", "unread"]
    parts = parts.decide(parts.items[0].finding.label, status="keep")
    assert statuses(parts) == ["keep", "reject", "unread"]
    assert statuses(at(nll, 2.5, parts.marks)) == ["keep", "reject", "unread"]


def test_an_older_model_says_at_most_how_many_patients_score_as_high() -> None:
    model = calibrated(((0.6, 0.2, 0.1), (0.5, 0.1, 0.0), (0.4, 0.0, 0.0)))
    peaks = (0.5, 1.5, 2.5, 3.5, 99)
    assert [normal_rank(model, peak).reaching for peak in peaks] == [3, 3, 2, 1, 1]
    assert normal_rank(model, 3.5).share == 2 / 4
    assert normal_rank(model, 3.5).one_in == 2
    # Above the highest threshold: nobody knows whether the one patient scores 99 too.
    rank = normal_rank(model, 99)
    assert rank.sentence.startswith("Scores as high in at most 1 of 3 normal patients")
    assert rank.count == "at most 1 of 3"
    assert normal_rank(model, 2.5).one_in == 1  # 4 / 3 is no "1 in 2"
    none = normal_rank(calibrated(((0.6, 0.2, 0.0),) * 12), 1e9)
    assert none.share == 1 / 13
    assert none.sentence == "Scores higher than in any of 12 normal patients."


def test_rarity_counts_patients_by_their_own_highest_scores() -> None:
    model = calibrated(((0.6, 0.2, 0.1),) * 4, ((5.0, 3.0), (9.0, 2.0), (7.0, 7.0), (8.0, 1.0)))
    found = normal_rank(model, 7.0)
    assert (found.reaching, found.count, found.share, found.as_large) == (3, "3 of 4", 4 / 5, None)
    assert found.sentence == "Scores as high in 3 of 4 normal patients."
    above = normal_rank(model, 9.5, Extent(30, 2.5), 1000)
    assert (above.reaching, above.as_large, above.one_in) == (0, 2, 5)
    assert above.sentence == (
        "Scores higher than in any of 4 normal patients; 2 have a region as large at this "
        "threshold."
    )
    # Less than the smallest size that was measured: any voxel may be as large.
    assert normal_rank(model, 9.5, Extent(5, 6.0), 1000).as_large == 3
    assert "none has a region" in normal_rank(model, 9.5, Extent(30, 8.0), 1000).sentence
    one = normal_rank(calibrated(((0.5, 0.2, 0.1),), ((5.0, 3.0),)), 6.0)
    assert one.sentence == "Scores higher than in the 1 normal patient."


def test_a_finding_is_compared_by_its_largest_part_within_a_slice() -> None:
    nll = hills()
    model = calibrated(((0.6, 0.2, 0.1),) * 2, ((6.0, 3.0), (5.5, 2.5)))
    # At 1.5 both hills are one finding of 25 + 25 + 2 pixels, the saddle of 2 its lowest score.
    found = list_findings(nll > 1.5, nll, GEOMETRY, model=model, body=100).items[0]
    assert (found.normal_rank.reaching, found.normal_rank.as_large) == (1, 2)
    # At 2.5 each hill of 25 stands alone, with 3 as its lowest score.
    found = list_findings(nll > 2.5, nll, GEOMETRY, model=model, body=100).items[0]
    assert (found.normal_rank.reaching, found.normal_rank.as_large) == (1, 1)
    # Joined through the next slice, its parts within a slice stay what they are.
    joined = nll.copy()
    joined[2, 4:9, 2:14] = 3.2
    joined[1, :, 8] = 0
    planes = np.moveaxis(joined > 2.5, GEOMETRY.slice_axis, 0)
    assert extent_of(planes, joined) == Extent(60, pytest.approx(3.2))
    assert extent_of(planes[:2], joined[:2]) == Extent(25, 3.0)
    assert found.columns["normal_patients_as_high"] == 1
    assert found.columns["normal_patients"] == 2


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (FakeModel(), "the model is not calibrated"),
        (calibrated(()), "the model was calibrated without distinguishing patients"),
    ],
)
def test_without_patients_there_is_a_reason_instead_of_a_rarity(model: Any, reason: str) -> None:
    found = normal_rank(model, 5.0)
    assert found.share is None
    assert found.one_in is None
    assert reason in found.sentence
