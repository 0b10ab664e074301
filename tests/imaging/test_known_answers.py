"""Files whose right answer is known: read right, or refused for the right reason.

The folders of `known_answers` are the project's own. Public test files of other readers and
derived ones may not be copied: they are read from the shared data, where that is at hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import napari_spatial_ar as nsar
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.scan import Scan

OWN = Path(__file__).parent / "known_answers"
MR = (8, 40, 48)
SPACING = (3.0, 1.5, 1.25)
CENTRE = (2, 20, 24)


@dataclass(frozen=True)
class Answer:
    """What reading a folder gives: volumes, or a refusal whose sentence matches `refused`."""

    shapes: tuple[tuple[int, int, int], ...] = ()
    spacing: tuple[float, float, float] | None = None  # of every volume, mm
    values: tuple[float, ...] = ()  # of each volume at `voxel`
    voxel: tuple[int, int, int] = CENTRE
    span: tuple[float, float] | None = None  # lowest and highest value of the first volume
    warned: str = ""  # a pattern that some warning matches
    regular: bool | None = None
    refused: str = ""  # a pattern; where there are shapes too, either is right
    look: Callable[[list[Scan]], None] | None = None


def window_is_of_the_body(volumes: list[Scan]) -> None:
    low, high = volumes[0].window or np.percentile(volumes[0].sample.foreground, (1, 99))
    assert 0 <= low < high <= 1000


def one_b_value_each(volumes: list[Scan]) -> None:
    for number, volume in enumerate(sorted(volumes, key=lambda v: v.data[CENTRE])):
        slope = volume.data[:, 20, 24] - volume.data[0, 20, 24]
        np.testing.assert_allclose(slope, 10 * np.arange(6))
        assert volume.data[CENTRE] == 528 + 500 * number


def unit_is_not_hounsfield(volumes: list[Scan]) -> None:
    assert volumes[0].intensity != "hu"
    assert "HU" not in volumes[0].unit


def unit_is_no_free_text(volumes: list[Scan]) -> None:
    assert volumes[0].unit in {"", "HU", "unknown unit"}


def meets_the_oracle(folder: Path) -> Callable[[list[Scan]], None]:
    """Equal to dcm2niix's volume, up to the flips that the affine accounts for."""

    def look(volumes: list[Scan]) -> None:
        oracle = nib.as_closest_canonical(nib.load(folder / "oracle.nii"))
        expected = np.asarray(oracle.dataobj, dtype=np.float32)
        for number, volume in enumerate(volumes):
            affine = volume.geometry.affine
            image = nib.as_closest_canonical(
                nib.Nifti1Image(volume.data.transpose(2, 1, 0), affine)
            )
            np.testing.assert_array_equal(np.asarray(image.dataobj), expected[..., number])
            np.testing.assert_allclose(image.affine, oracle.affine, atol=1e-2)

    return look


ANSWERS: dict[str, Answer] = {
    "bare_date_first": Answer((MR,), SPACING, (528,)),
    "bare_length_to_end": Answer((MR,), SPACING, (528,)),
    "dim4_zero": Answer((MR,), None, (528,)),
    "dsc_unique_times": Answer(((6, 40, 48),) * 3, SPACING, (528, 1028, 1528)),
    "high_bit_15_of_12": Answer((MR,), SPACING, (528 - 1024,), regular=True),
    "image_type_varies": Answer((MR,), SPACING, (528 - 1024,), regular=True),
    "incomplete_last_volume_acqnr": Answer(
        ((6, 40, 48),) * 3 + ((4, 40, 48),), SPACING, warned="incomplete|missing|4 slices"
    ),
    "jpegls_signed_13": Answer((MR,), SPACING, (-672,), span=(-1200, -300)),
    "meta_without_preamble": Answer((MR,), SPACING, (528,)),
    "mr_pixel_padding_bright": Answer((MR,), SPACING, (528,), look=window_is_of_the_body),
    "multi_pass_ct": Answer((MR, (6, 40, 48)), SPACING, regular=True),
    "no_series_uid_two_series": Answer((MR, MR), SPACING, (1028, 1528)),
    "philips_dwi_random_numbers": Answer(((6, 40, 48),) * 3, SPACING, look=one_b_value_each),
    "pixel_spacing_varies": Answer(((4, 40, 48),) * 2, warned="spacing"),
    "png_grey_alpha_16": Answer(((1, 40, 48),), None, (21120,), (0, 20, 24)),
    "png_rgb_16_grey": Answer(((1, 40, 48),), None, (21120,), (0, 20, 24)),
    "positions_rounded_0p1": Answer(((22, 24, 28),), (6.5, 1.5, 1.25), regular=True),
    "quaternion_over_one_sform_good": Answer((MR,), SPACING, (528,), regular=True),
    "rescale_empty": Answer((MR,), SPACING, (528,), warned="", look=unit_is_not_hounsfield),
    "same_sop_instance_uid": Answer((MR,), SPACING, (528,), warned="UID"),
    "says_implicit_is_explicit": Answer((MR,), SPACING, (528,), span=(0, 900)),
    "segv-nrrd": Answer(refused=r"dimension|12|cut short|damaged|size"),
    "tiff-cut": Answer(refused="cut short|damaged|pages|slices"),
    "tiff_imagej_zc": Answer((MR, MR)),
    "uint64_large": Answer((MR,), SPACING, warned="offset|float32|digits|exact"),
    "vr_ut_spacing": Answer((MR,), SPACING, (528,)),
}


def check(folder: Path, answer: Answer) -> None:
    if answer.refused and not answer.shapes:
        with pytest.raises(InputError) as caught:
            nsar.read(folder)
        assert re.search(answer.refused, caught.value.what)
        return
    try:
        volumes = nsar.read(folder)
    except InputError as error:
        if answer.refused and re.search(answer.refused, error.what):
            return  # either is right
        raise
    assert [volume.data.shape for volume in volumes] == list(answer.shapes)
    for volume in volumes:
        if answer.spacing:
            np.testing.assert_allclose(volume.geometry.spacing, answer.spacing, rtol=2e-3)
        if answer.regular is not None:
            assert volume.geometry.regular is answer.regular, volume.warnings
    if answer.values:
        assert [volume.data[answer.voxel] for volume in volumes] == list(answer.values)
    if answer.span:
        assert (volumes[0].data.min(), volumes[0].data.max()) == answer.span
    if answer.warned:
        assert re.search(answer.warned, " ".join(w for v in volumes for w in v.warnings))
    if answer.look:
        answer.look(volumes)


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_own_file(name: str) -> None:
    check(OWN / name, ANSWERS[name])


def test_every_own_folder_has_an_answer() -> None:
    # The mask drawn on an irregular stack is put back by tests/imaging/dicom/test_seg.py.
    folders = {folder.name for folder in OWN.iterdir() if folder.is_dir()}
    assert folders - {"seg_back_missing_slice"} == set(ANSWERS)


def is_hounsfield(low: float, high: float) -> Callable[[list[Scan]], None]:
    def look(volumes: list[Scan]) -> None:
        assert (volumes[0].modality, volumes[0].unit) == ("ct", "HU")
        assert volumes[0].extremes == (low, high)

    return look


def is_scaled_mr(volumes: list[Scan]) -> None:
    assert volumes[0].modality == "mri"
    np.testing.assert_allclose(volumes[0].extremes, (0.0000610, 2245.598), rtol=1e-4)


SHARED: dict[str, Answer] = {
    "hostile/dicom-slice-dropped": Answer(((5, 512, 512),), warned=r"0\d\.dcm"),
    "hostile/rescaletype-phi": Answer(((5, 512, 512),), look=unit_is_no_free_text),
    "peers/ge_pepolar": Answer(((60, 128, 128),), warned="revers|flip|pepolar"),
    "peers/nrrd_1d": Answer(refused="1-D|dimension"),
    "peers/same_uid_other_pixels": Answer(((35, 64, 64),) * 3),
    "peers/seg_labelmap": Answer(refused="[Ss]egmentation|no scan|label map"),
    "peers/tiff_preamble_ct": Answer(((1, 512, 512),), look=is_hounsfield(-3024, 1254)),
    "peers/tiff_preamble_mr": Answer(((1, 1024, 1024),), look=is_scaled_mr),
}


@pytest.mark.parametrize("name", sorted(SHARED))
def test_shared_file(shared_data: Path, name: str) -> None:
    check(shared_data / name, SHARED[name])


def test_dicom_that_begins_as_a_picture(shared_data: Path) -> None:
    folder = shared_data / "peers/tiff_preamble_refused"
    ct = nsar.read(folder / "CT_small.dcm")[0]
    assert (ct.data.shape, ct.unit, ct.extremes) == ((1, 128, 128), "HU", (-896, 1167))
    for path in sorted(folder.glob("*.dcm")):
        assert nsar.read(path)[0].modality in {"ct", "mri"}, path.name


def test_tile_sheets_meet_an_independent_conversion(shared_data: Path) -> None:
    folder = shared_data / "peers/uih_vframe"
    volumes = [nsar.read(path)[0] for path in sorted(folder.glob("*.dcm"))]
    assert [volume.data.shape for volume in volumes] == [(20, 64, 64)] * 3
    meets_the_oracle(folder)(volumes)
