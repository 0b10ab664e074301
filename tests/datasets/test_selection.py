"""What of the volumes is used: their plane, place in the stack, and body."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from napari_spatial_ar.datasets.folders import content_key, find_slices, iter_slices
from napari_spatial_ar.datasets.selection import Selection, place_in_stack, read_range
from napari_spatial_ar.datasets.slices import SliceRef, SliceSet, split_slices
from napari_spatial_ar.datasets.summary import DataSummary, Side
from napari_spatial_ar.datasets.survey import survey
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.reading import Source
from napari_spatial_ar.imaging.windows import Window
from napari_spatial_ar.steps import finish

SHAPE = (20, 24, 18)  # (i, j, k)


def look(folder: Path, selection: Selection, **asked: object) -> DataSummary:
    found = finish(survey(folder, selection=selection))
    return DataSummary(found, selection=selection, **asked)  # type: ignore[arg-type]


def save_scan(
    path: Path,
    codes: str = "LPS",
    seed: int = 0,
    spacing: tuple[float, float, float] = (1.0, 1.2, 2.0),
) -> np.ndarray:
    """R, A, S voxels, in whose axial slices the body grows from none to nearly all."""
    voxels = np.random.default_rng(seed).uniform(100, 200, SHAPE)
    for k in range(SHAPE[2]):
        voxels[k:, :, k] = 0
    turn = nib.orientations.axcodes2ornt(codes)
    image = nib.Nifti1Image(voxels, np.diag([*spacing, 1.0]))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image.as_reoriented(turn), path)
    return voxels


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SRP", "PIL"])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_place_in_the_stack_is_the_same_place_in_the_patient(codes: str, plane: str) -> None:
    turn = nib.orientations.axcodes2ornt(codes)
    image = nib.Nifti1Image(np.zeros(SHAPE), np.eye(4)).as_reoriented(turn)
    geometry = Geometry(image.shape[::-1], image.affine).along(plane)  # type: ignore[arg-type]
    last = geometry.slice_count - 1
    first_mm, last_mm = (
        (image.affine @ [*(i if geometry.slice_axis == 2 - a else 0 for a in range(3)), 1])
        for i in (0, last)
    )
    world = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
    # RAS millimetres grow to superior; posterior and left are where A and R fall.
    rises = (last_mm[world] > first_mm[world]) == (plane == "axial")
    places = [place_in_stack(geometry, i) for i in range(last + 1)]
    assert places == sorted(places, reverse=not rises)
    assert min(places) == pytest.approx(0.5 / (last + 1))
    assert max(places) == pytest.approx(1 - 0.5 / (last + 1))


def test_a_range_holds_both_its_ends() -> None:
    selection = Selection(slice_range=(0.25, 0.75))
    assert [selection.holds(place) for place in (0.2499, 0.25, 0.75, 0.7501, None)] == [
        False,
        True,
        True,
        False,
        True,
    ]
    assert read_range("0.2:0.8") == read_range([0.2, 0.8]) == (0.2, 0.8)


@pytest.mark.parametrize("text", ["0.2", "0.2:0.3:0.4", "a:b", "0.5:0.5", "-0.1:1", "nan:1", 3, ""])
def test_what_is_no_range_is_one_sentence(text: object) -> None:
    with pytest.raises(InputError, match=r"is not a part of a stack of slices\. Write two shares"):
        read_range(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SRP"])
def test_slices_are_cut_from_the_voxels_as_they_are(tmp_path: Path, codes: str) -> None:
    voxels = save_scan(tmp_path / "a" / "scan.nii", codes)
    selection = Selection("coronal", min_body=0)
    refs = find_slices(tmp_path, selection=selection).train
    assert len(refs) == SHAPE[1]
    # From nibabel's own axes: rows to inferior, columns to left.
    wanted = [voxels[::-1, j, ::-1].T.astype(np.float32).tobytes() for j in range(SHAPE[1])]
    images = [image for _, image, _ in iter_slices(refs, Window("percentile", 0, 100))]
    assert sorted(image.tobytes() for image in images) == sorted(wanted)


def test_the_own_plane_of_a_scan_gives_the_slices_that_it_has(tmp_path: Path) -> None:
    save_scan(tmp_path / "scan.nii")
    acquired = find_slices(tmp_path).train
    assert find_slices(tmp_path, selection=Selection("axial")).train == acquired
    cut = find_slices(tmp_path, selection=Selection("sagittal")).train
    keys = [{content_key(ref) for ref in refs} for refs in (acquired, cut)]
    assert not keys[0] & keys[1], "embeddings of one are never taken for those of the other"


def test_what_is_left_out_is_counted_and_live_choices_are_those_of_a_new_look(
    tmp_path: Path,
) -> None:
    save_scan(tmp_path / "scan.nii")
    chosen = Selection("axial", (0.2, 0.8), 0.5)
    fresh = look(tmp_path, chosen)
    # Slice k shows body on k of 20 columns but for the scan's darkest, and lies at (k + 0.5) / 18.
    kept = [k for k in range(18) if 0.2 <= (k + 0.5) / 18 <= 0.8 and k / 20 > 0.5]
    outside = [k for k in range(18) if not 0.2 <= (k + 0.5) / 18 <= 0.8]
    assert fresh.total.slices == len(kept)
    assert fresh.left_out == {"range": len(outside), "empty": 18 - len(kept) - len(outside)}
    said = "\n".join(fresh.lines())
    assert f"Excluded: {len(outside)} slices, outside the range of slices chosen." in said
    assert f"Excluded: {18 - len(kept) - len(outside)} slices, little body on them." in said
    live = look(tmp_path, Selection("axial")).choosing(chosen, 0.0)
    assert live.to_dict() == fresh.to_dict()
    assert [r.index for r in find_slices(tmp_path, selection=chosen).train] == [
        ref.index for series in live.used for ref in series.refs
    ]


def test_pictures_have_no_plane(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(90, 255, (20, 20)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a_1.png")
    with pytest.raises(InputError, match=r"1 slice excluded: images .* cannot be cut") as caught:
        find_slices(tmp_path, selection=Selection("axial"))
    assert "\n" not in str(caught.value)
    assert len(find_slices(tmp_path, selection=Selection(slice_range=(0.8, 0.9))).train) == 1
    save_scan(tmp_path / "scan.nii")
    found = look(tmp_path, Selection("coronal"))
    assert found.left_out["plane"] == 1
    assert "Volumes are cut into coronal slices." in found.lines()


def test_series_of_another_plane_than_most_are_named(tmp_path: Path) -> None:
    for number, spacing in enumerate([(1.0, 1.0, 2.0), (1.0, 1.0, 3.0), (1.0, 4.0, 1.0)]):
        save_scan(tmp_path / f"{number}" / "scan.nii", seed=number, spacing=spacing)
    said = "Acquired in another plane than most, which are axial: coronal (1)."
    assert said in look(tmp_path, Selection()).lines()
    assert said not in look(tmp_path, Selection("axial")).lines()


def slices_of(*sizes: int, prefix: str = "p") -> tuple[SliceRef, ...]:
    return tuple(
        SliceRef(Path(f"{prefix}{p}_{n}"), None, f"{prefix}{p}", Source("raster", ()))
        for p, size in enumerate(sizes)
        for n in range(size)
    )


@pytest.mark.parametrize("fractions", [(0.2, 0.2), (0.2, 0.7), (0.7, 0.2), (0.01, 0.01)])
@pytest.mark.parametrize("sizes", [(5,) * 10, (1, 30, 2), (9, 1, 1, 1, 1)])
def test_no_patient_has_two_parts(fractions: tuple[float, float], sizes: tuple[int, ...]) -> None:
    refs = slices_of(*sizes)
    made = split_slices(SliceSet(refs), *fractions, seed=1)
    parts = (made.train, made.valid, made.calibration)
    groups = [{ref.group for ref in part} for part in parts]
    assert all(groups)
    assert sum(map(len, groups)) == len(set().union(*groups)) == len(sizes)
    assert sorted(str(r.path) for part in parts for r in part) == sorted(str(r.path) for r in refs)
    assert made == split_slices(SliceSet(refs), *fractions, seed=1)


def test_shares_are_of_all_slices() -> None:
    made = split_slices(SliceSet(slices_of(*[5] * 20)), 0.2, 0.3, seed=0)
    assert [len(p) for p in (made.train, made.valid, made.calibration)] == [50, 20, 30]
    without = split_slices(SliceSet(slices_of(*[5] * 20)), 0.2, 0.0, seed=0)
    assert (len(without.valid), without.calibration) == (20, ())


def test_what_the_folder_says_of_validation_stays() -> None:
    valid = slices_of(2, 2, prefix="v")
    train = (*slices_of(3, 3, 3), *slices_of(4, prefix="v"))
    made = split_slices(SliceSet(train, valid), 0.2, 0.9 / 2, seed=0)
    assert made.valid == valid
    assert not {r.group for r in made.calibration} & {"v0", "v1"}
    assert made.calibration
    assert {r.group for r in made.train} >= {"v0"}


@pytest.mark.parametrize(("sizes", "valid"), [((5, 5), ()), ((5,), (2,))])
def test_too_few_patients_are_one_sentence(sizes: tuple[int, ...], valid: tuple[int, ...]) -> None:
    held_out = slices_of(*valid, prefix="v")
    with pytest.raises(InputError, match=r"training, validation and calibration need \d patients"):
        split_slices(SliceSet(slices_of(*sizes), held_out), 0.2, 0.2, seed=0)


def test_the_summary_says_what_calibration_rests_on(tmp_path: Path) -> None:
    for number in range(4):
        save_scan(tmp_path / f"{number}" / "scan.nii", seed=number)
    found = look(tmp_path, Selection(), calibration_fraction=0.2)
    per_patient = found.total.slices // 4
    assert found.split == (Side(2 * per_patient, 2), Side(per_patient, 1), Side(per_patient, 1))
    assert f"calibration on {per_patient} slices of 1 patient." in "\n".join(found.lines())
    assert "Only 1 patient is held out for calibration" in found.promise()
    assert found.to_dict()["calibration"] == {"slices": per_patient, "patients": 1}
    few = found.without({series.key for series in found.used[:2]})
    assert few.split is None
    assert "2 patients are too few for training, validation and calibration" in few.promise()
