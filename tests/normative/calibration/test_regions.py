"""Regions in normal scans, against the labels that findings are made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

import napari_spatial_ar as nsar
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.json_text import from_plain
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.calibration.calibrate import recalibrate
from napari_spatial_ar.normative.calibration.calibration import Calibration, calibrate
from napari_spatial_ar.normative.calibration.regions import NormalRegions, RegionCounter
from napari_spatial_ar.normative.model_file import read_header
from napari_spatial_ar.review.findings import label_components
from napari_spatial_ar.review.masks import MaskSettings, make_mask
from napari_spatial_ar.review.model_card import write_model_card
from napari_spatial_ar.review.p_values import regions_note, share_note
from napari_spatial_ar.steps import finish

Array = npt.NDArray[np.float32]
SHAPE = (9, 24, 20)
CUTS = (0.0, 0.5, 1.0)


def waves(seed: int) -> Array:
    noise = np.random.default_rng(seed).normal(size=SHAPE)
    smooth = ndimage.gaussian_filter(noise, 1)
    return np.asarray(smooth / smooth.std(), np.float32)


def grid(step: float = 2.0) -> Geometry:
    return Geometry(SHAPE, np.diag([-1.0, -1.0, step, 1.0]))


def as_it_is(patches: Array, shape: tuple[int, int]) -> Array:
    assert patches.shape == shape
    return patches


def counted(*scans: tuple[Array, Geometry | None], leave_out: int | None = None) -> NormalRegions:
    counter = RegionCounter()
    # In any order, and interleaved.
    for index in np.random.default_rng(0).permutation(SHAPE[0]):
        for number, (heat, geometry) in enumerate(scans):
            if index != leave_out:
                stack = number if geometry else (number, index)
                counter.add(stack, int(index), geometry, heat[index], heat[index])
    found = finish(counter.count(as_it_is, CUTS))
    assert found is not None
    return found


def test_regions_are_counted_as_findings_are() -> None:
    scans = [(waves(seed), grid()) for seed in (1, 2)]
    found = counted(*scans)
    assert (found.per, found.scans, found.unit) == ("scan", 2, "mm3")
    assert found.thresholds[:3] == CUTS
    assert len(found.thresholds) > 6
    highest = max(float(heat.max()) for heat, _ in scans)
    assert found.thresholds[-1] == highest
    for cut in found.thresholds:
        for size in (0.0, 10.0, 50.0):
            settings = MaskSettings(min_size_mm3=size)
            masks = [make_mask(heat, cut, settings, geometry=where) for heat, where in scans]
            mean = np.mean([label_components(mask).max() for mask in masks])
            assert found.count(cut, size) == pytest.approx(mean, rel=1e-3), (cut, size)
    assert found.count(0.5) != found.count(0.5, 10.0) != found.count(0.5, 50.0)
    assert found.count(highest) == found.count(highest + 1) == 0
    assert found.count(-0.1) is None
    between = (found.count(0.0) + found.count(0.5)) / 2  # type: ignore[operator]
    assert found.count(0.25) == pytest.approx(between)


def test_slices_left_out_part_regions() -> None:
    heat = np.zeros(SHAPE, np.float32)
    heat[2:7, 4:8, 4:8] = 5
    assert counted((heat, grid())).count(1.0) == 1
    assert counted((heat, grid()), leave_out=4).count(1.0) == 2
    assert counted((heat, grid()), leave_out=1).count(1.0) == 1


def test_images_are_counted_one_by_one_and_only_without_volumes() -> None:
    heat = waves(3)
    found = counted((heat, None))
    assert (found.per, found.scans, found.unit) == ("slice", SHAPE[0], "voxels")
    each = [ndimage.label(plane > 0.5, np.ones((3, 3)))[1] for plane in heat]
    assert found.count(0.5) == pytest.approx(np.mean(each), rel=1e-3)
    assert counted((heat, None), (waves(4), grid())) == counted((waves(4), grid()))
    assert counted((heat, Geometry.without_spacing(SHAPE))).unit == "voxels"
    assert finish(RegionCounter().count(as_it_is, CUTS)) is None


TABLE = NormalRegions("scan", 12, (1.0, 2.0, 3.0), "mm3", (0.0, 100.0), ((40, 1, 0), (4, 0.4, 0)))


def with_regions(regions: NormalRegions | None) -> Calibration:
    return replace(
        calibrate([np.linspace(0, 4, 1000, dtype=np.float32)], [1.0], ["a"]), regions=regions
    )


def test_it_is_stored_and_older_calibrations_stay_as_they_are() -> None:
    old, new = with_regions(None), with_regions(TABLE)
    assert "normal_regions" not in old.to_dict()
    assert from_plain(old.to_dict(), Calibration) == old
    assert from_plain(new.to_dict(), Calibration) == new
    for damage in ({"sizes": [1.0, 2.0]}, {"thresholds": [3.0, 2.0, 1.0]}, {"counts": [[1, 2, 3]]}):
        with pytest.raises(ValueError, match="region"):
            from_plain({**TABLE.to_dict(), **damage}, NormalRegions)


@pytest.mark.parametrize(
    ("threshold", "settings", "note"),
    [
        (1.0, None, "about 40 regions a normal scan"),
        (2.0, None, "about 1 region a normal scan"),
        (1.5, None, "about 20 regions a normal scan"),
        (2.5, None, "about 0.5 regions a normal scan"),
        (3.0, None, "no region in any of 12 normal scans"),
        (9.0, None, "no region in any of 12 normal scans"),
        (0.5, None, ""),
        (2.0, MaskSettings(min_size_mm3=100), "about 0.4 regions a normal scan"),
        (2.0, MaskSettings(min_size_mm3=50), "about 0.7 regions a normal scan"),
        (2.0, MaskSettings(min_size_mm3=999), "about 0.4 regions a normal scan"),
        (2.0, MaskSettings(min_voxels=9), "about 1 region a normal scan (by the threshold alone)"),
        (
            2.0,
            MaskSettings(min_size_mm3=100, fill_holes=True),
            "about 1 region a normal scan (by the threshold alone)",
        ),
    ],
)
def test_a_threshold_says_what_it_flags(
    threshold: float, settings: MaskSettings | None, note: str
) -> None:
    calibration = with_regions(TABLE)
    assert regions_note(calibration, threshold, settings) == note
    assert share_note(calibration, threshold, settings).endswith(note and f" It flags {note}.")
    assert regions_note(with_regions(None), threshold, settings) == ""


def test_a_single_image_is_a_slice() -> None:
    table = replace(TABLE, per="slice", scans=1, unit="voxels")
    notes = [regions_note(with_regions(table), threshold) for threshold in (2.0, 3.0)]
    assert notes == ["about 1 region a normal slice", "no region in the 1 normal slice"]
    smallest = MaskSettings(min_voxels=100)
    assert regions_note(with_regions(table), 2.0, smallest) == "about 0.4 regions a normal slice"


def test_a_fit_and_a_calibration_count_what_scoring_flags(
    tmp_path: Path, tiny_backbone: Backbone, tiny_weights: Path
) -> None:
    for number in range(5):
        rng = np.random.default_rng(number)
        voxels = np.rint(ndimage.gaussian_filter(rng.uniform(0, 255, (40, 36, 6)), 1))
        folder = tmp_path / ("other" if number == 4 else "normal") / f"patient{number}"
        folder.mkdir(parents=True)
        affine = np.diag([1.0, 1.0, 3.0, 1.0])
        image = nib.Nifti1Image(voxels.astype(np.int16), affine)  # type: ignore[no-untyped-call]
        nib.save(image, folder / "scan.nii")
    model = nsar.fit(
        tmp_path / "normal",
        out=tmp_path / "m",
        backbone=tiny_backbone,
        device="cpu",
        method="memory-bank",
        size=(64, 64),
        calibration_folds=3,
    )
    found = model.calibration.regions
    assert found is not None
    assert (found.per, found.scans, found.unit) == ("scan", 4, "mm3")
    new = recalibrate(tmp_path / "m", tmp_path / "other", device="cpu")
    assert read_header(tmp_path / "m" / "model.safetensors")[0] == new.header
    (volume,) = nsar.read(tmp_path / "other" / "patient4" / "scan.nii")
    scores = new.score_volume(volume).nll
    regions = new.calibration.regions
    assert regions is not None
    # Stored embeddings are float16, whose error matters only next to the highest score.
    cuts = new.calibration.thresholds[:-1]
    flagged = [int(label_components(scores > cut).max()) for cut in cuts]
    assert [regions.count(cut) for cut in cuts] == flagged
    assert max(flagged) > 2
    card = write_model_card(new)
    assert card is not None
    assert "regions a normal scan, of 1 |" in card.read_text()
