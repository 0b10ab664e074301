"""NIfTI in and out, against nibabel."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_spatial_ar.errors import InputError, StorageError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.nifti import is_nifti, read_nifti, write_nifti

LPS = np.diag([-0.5, -0.6, 3.0, 1.0])


def ramp(shape: tuple[int, ...] = (7, 6, 5), dtype: str = "int16") -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = LPS, **header: float) -> Path:
    image = nib.Nifti1Image(array, affine)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.bin"])
def test_voxels_are_in_file_order_whatever_the_name(tmp_path: Path, name: str) -> None:
    saved = save(tmp_path / "scan.nii", ramp())
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(saved.read_bytes()))
    elif name != "scan.nii":
        saved.rename(tmp_path / name)
    volume = read_nifti(tmp_path / name)
    assert volume.data.dtype == np.float32
    np.testing.assert_array_equal(volume.data, ramp().T)
    np.testing.assert_allclose(volume.geometry.affine, LPS)
    assert (volume.modality, volume.intensity, volume.warnings) == ("unknown", "arbitrary", ())
    assert volume.path == tmp_path / name
    assert volume.series.label == "NIfTI scan 7 x 6 x 5"


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_every_number_type_is_read(tmp_path: Path, dtype: str) -> None:
    volume = read_nifti(save(tmp_path / "a.nii", ramp(dtype=dtype)))
    np.testing.assert_array_equal(volume.data, ramp(dtype=dtype).T)
    assert volume.intensity == ("grey8" if dtype == "uint8" else "arbitrary")


def test_nifti2_is_read(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(ramp(), LPS), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii.gz").data, ramp().T)


def test_slope_and_intercept_are_applied_and_end_grey8(tmp_path: Path) -> None:
    image = nib.Nifti1Image(ramp(dtype="uint8"), LPS)
    image.header.set_slope_inter(2.0, -5.0)
    # nibabel writes its own slope when saving, so the header is put before the voxels by hand.
    raw = image.header.binaryblock + b"\0" * 4 + ramp(dtype="uint8").tobytes(order="F")
    (tmp_path / "a.nii").write_bytes(raw[:108] + struct.pack("<f", 352) + raw[112:])
    volume = read_nifti(tmp_path / "a.nii")
    np.testing.assert_array_equal(volume.data, ramp().T * 2.0 - 5.0)
    assert volume.intensity == "arbitrary"


@pytest.mark.parametrize("shape", [(7, 6), (7, 6, 1), (7, 6, 1, 1)])
def test_a_picture_becomes_one_slice(tmp_path: Path, shape: tuple[int, ...]) -> None:
    volume = read_nifti(save(tmp_path / "a.nii", ramp(shape)))
    assert volume.data.shape == (1, 6, 7)
    assert volume.slices.shape == (1, 6, 7)


def test_a_fourth_axis_of_one_is_dropped(tmp_path: Path) -> None:
    assert read_nifti(save(tmp_path / "a.nii", ramp((7, 6, 5, 1)))).data.shape == (5, 6, 7)


@pytest.mark.parametrize(
    ("shape", "spacing", "slice_axis"),
    [
        ((64, 60, 50), (1, 1, 3), 0),
        ((64, 60, 50), (1, 3, 1), 1),
        ((64, 60, 50), (3, 1, 1), 2),
        ((64, 60, 50), (1, 1, 1.1), 0),
        ((4, 60, 50), (1, 1, 1), 2),
        ((64, 1, 50), (1, 1, 1), 1),
    ],
)
def test_slices_lie_along_the_thick_axis_or_the_short_one_or_the_body(
    tmp_path: Path, shape: tuple[int, ...], spacing: tuple[float, ...], slice_axis: int
) -> None:
    path = save(tmp_path / "a.nii", ramp(shape, "float32"), np.diag([*spacing, 1.0]))
    assert read_nifti(path).geometry.slice_axis == slice_axis


def test_equal_spacing_in_a_sagittal_file_gives_axial_slices(tmp_path: Path) -> None:
    affine = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
    geometry = read_nifti(save(tmp_path / "a.nii", ramp(), affine)).geometry
    assert geometry.plane == "axial"
    assert geometry.slice_axis == 1


def test_a_file_without_position_warns(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", ramp(), None)
    volume = read_nifti(path)
    np.testing.assert_allclose(volume.geometry.affine, nib.load(path).affine)
    assert "left and right are assumed" in volume.warnings[0]


@pytest.mark.parametrize(("shift", "warned"), [(0.005, False), (2.5, True)])
def test_two_positions_that_disagree_warn_with_the_distance(
    tmp_path: Path, shift: float, warned: bool
) -> None:
    image = nib.Nifti1Image(ramp(), LPS)
    moved = LPS.copy()
    moved[1, 3] += shift
    image.set_sform(moved, code=2)
    image.set_qform(LPS, code=1)
    nib.save(image, tmp_path / "a.nii")
    volume = read_nifti(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.geometry.affine, moved, atol=1e-6)
    assert any("2.50 mm" in w for w in volume.warnings) == warned
    assert len(volume.warnings) == warned


def test_lengths_in_metres_become_mm(tmp_path: Path) -> None:
    image = nib.Nifti1Image(ramp(), np.diag([0.001, 0.001, 0.003, 1]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "a.nii")
    volume = read_nifti(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.geometry.spacing, (3, 1, 1))
    assert "meters" in volume.warnings[0]


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (ramp((4, 4, 4, 3)), "4 x 4 x 4 x 3"),
        (np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]), "colour"),
        (ramp(dtype="complex64"), "colour or complex"),
        (np.full((4, 4, 4), 7, dtype="int16"), "same value, 7"),
        (np.where(ramp() < 3, np.nan, ramp()).astype("float32"), "3 of 210 voxels are not finite"),
        (np.where(ramp() < 1, 1e300, ramp()), "1 of 210 voxels are not finite"),
    ],
)
def test_what_cannot_be_scored_is_refused(tmp_path: Path, array: np.ndarray, match: str) -> None:
    path = save(tmp_path / "a.nii", array)
    with pytest.raises(InputError, match=match) as caught:
        read_nifti(path)
    assert caught.value.path == path


def test_a_singular_affine_is_refused_with_the_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", ramp())
    raw = bytearray(path.read_bytes())
    raw[280:328] = bytes(48)  # srow_x, srow_y, srow_z
    path.write_bytes(raw)
    with pytest.raises(InputError, match="singular") as caught:
        read_nifti(path)
    assert caught.value.path == path


def damaged(kind: str, raw: bytes) -> bytes:
    packed = gzip.compress(raw)
    return {
        "empty": b"",
        "text": b"not a scan at all" * 100,
        "header cut": raw[:200],
        "voxels cut": raw[:-50],
        "gz cut": packed[:-40],
        "gz flipped": packed[:60] + bytes(40) + packed[100:],
        "gz of text": gzip.compress(b"hello"),
        "claims 54 TB": raw[:42] + struct.pack("<3h", 30000, 30000, 30000) + raw[48:],
        "gz claims 54 TB": gzip.compress(
            raw[:42] + struct.pack("<3h", 30000, 30000, 30000) + raw[48:]
        ),
        "negative size": raw[:42] + struct.pack("<3h", -7, 6, 5) + raw[48:],
        "no size": raw[:42] + struct.pack("<3h", 0, 6, 5) + raw[48:],
        "unknown type": raw[:70] + struct.pack("<h", 12345) + raw[72:],
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        *("empty", "text", "header cut", "voxels cut", "gz cut", "gz flipped", "gz of text"),
        *("claims 54 TB", "gz claims 54 TB", "negative size", "no size", "unknown type"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 1000, (7, 6, 5)).astype("int16")
    raw = save(tmp_path / "good.nii", noise).read_bytes()
    path = tmp_path / "bad.nii.gz"
    path.write_bytes(damaged(kind, raw))
    with pytest.raises(InputError) as caught:
        read_nifti(path)
    assert caught.value.path == path
    assert "\n" not in str(caught.value)
    assert ("header claims 54000000000000 bytes" in str(caught.value)) == ("claims" in kind)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_nifti(tmp_path / "nowhere.nii")


def test_told_by_content(tmp_path: Path) -> None:
    assert is_nifti(save(tmp_path / "a.nii.gz", ramp()))
    (tmp_path / "b.nii").write_bytes(b"no")
    assert not is_nifti(tmp_path / "b.nii")


OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.2, -0.3, 0.1) @ np.diag([0.5, 0.6, 3.0]), (3, -4, 5)
)
SHEARED = OBLIQUE @ np.array([[1, 0, 0.5, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("affine", [LPS, OBLIQUE, SHEARED])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int32"])
@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz"])
def test_a_written_file_is_what_nibabel_reads(
    tmp_path: Path, affine: np.ndarray, dtype: str, name: str
) -> None:
    array = ramp((5, 6, 7), dtype)
    write_nifti(tmp_path / name, array, Geometry((5, 6, 7), affine))
    image = nib.load(tmp_path / name)
    assert image.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), array.T)
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    assert image.header.get_xyzt_units()[0] == "mm"
    if affine is not SHEARED:
        np.testing.assert_allclose(image.get_qform(coded=True)[0], affine, atol=1e-5)
    else:
        assert image.get_qform(coded=True)[0] is None
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_booleans_become_uint8(tmp_path: Path) -> None:
    write_nifti(tmp_path / "m.nii", ramp((5, 6, 7)) > 9, Geometry((5, 6, 7), LPS))
    assert nib.load(tmp_path / "m.nii").get_data_dtype() == np.uint8


@pytest.mark.parametrize("codes", [(1, 2), (0, 4), (3, 0), (0, 0)])
def test_the_source_position_is_copied_bit_by_bit(tmp_path: Path, codes: tuple[int, int]) -> None:
    image = nib.Nifti1Image(ramp(), OBLIQUE)
    moved = OBLIQUE.copy()
    moved[:3, 3] += 7
    image.set_qform(moved, code=codes[0])
    image.set_sform(OBLIQUE, code=codes[1])
    image.header.set_xyzt_units("unknown")
    nib.save(image, tmp_path / "scan.nii.gz")
    volume = read_nifti(tmp_path / "scan.nii.gz")
    write_nifti(
        tmp_path / "mask.nii",
        volume.data > 9,
        volume.geometry,
        like=tmp_path / "scan.nii.gz",
    )
    source, mask = nib.load(tmp_path / "scan.nii.gz"), nib.load(tmp_path / "mask.nii")
    np.testing.assert_array_equal(mask.affine, source.affine)
    for field in ("qform_code", "sform_code", "pixdim", "srow_x", "qoffset_z", "quatern_c"):
        np.testing.assert_array_equal(mask.header[field][:4], source.header[field][:4]) if (
            mask.header[field].ndim
        ) else np.testing.assert_array_equal(mask.header[field], source.header[field])
    assert mask.header.get_xyzt_units()[0] == "unknown"


def test_lengths_in_metres_stay_so_in_the_mask(tmp_path: Path) -> None:
    image = nib.Nifti1Image(ramp(), np.diag([0.001, 0.001, 0.003, 1]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "a.nii")
    volume = read_nifti(tmp_path / "a.nii")
    write_nifti(tmp_path / "m.nii", volume.data, volume.geometry, like=tmp_path / "a.nii")
    np.testing.assert_allclose(
        read_nifti(tmp_path / "m.nii").geometry.affine, volume.geometry.affine, atol=1e-6
    )


def test_a_source_that_is_no_nifti_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "slice.dcm").write_bytes(b"x")
    geometry = Geometry((5, 6, 7), LPS)
    write_nifti(tmp_path / "m.nii", ramp((5, 6, 7), "uint8"), geometry, like=tmp_path / "slice.dcm")
    np.testing.assert_allclose(nib.load(tmp_path / "m.nii").affine, LPS)


def test_what_does_not_fit_is_not_written(tmp_path: Path) -> None:
    geometry = Geometry((5, 6, 7), LPS)
    array = ramp((5, 6, 7), "uint8")
    other = save(tmp_path / "other.nii", ramp(), np.diag([2.0, 2, 2, 1]))
    with pytest.raises(InputError, match="must end in"):
        write_nifti(tmp_path / "m.png", array, geometry)
    with pytest.raises(InputError, match="float64"):
        write_nifti(tmp_path / "m.nii", array.astype(float), geometry)
    with pytest.raises(InputError, match="not on the grid"):
        write_nifti(tmp_path / "m.nii", array[1:], geometry)
    with pytest.raises(InputError, match="another grid"):
        write_nifti(tmp_path / "m.nii", array, geometry, like=other)
    assert [p.name for p in tmp_path.iterdir()] == ["other.nii"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="disk is full"):
        write_nifti(tmp_path / "m.nii.gz", ramp((5, 6, 7), "uint8"), Geometry((5, 6, 7), LPS))
    assert list(tmp_path.iterdir()) == []


def test_the_same_mask_is_the_same_bytes(tmp_path: Path) -> None:
    geometry = Geometry((5, 6, 7), LPS)
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, ramp((5, 6, 7), "uint8"), geometry)
    raw = (tmp_path / "a.nii.gz").read_bytes()
    assert raw == (tmp_path / "b.nii.gz").read_bytes()
    assert raw[3:8] == bytes(5)  # gzip's name flag and time


@pytest.mark.parametrize(
    "name", ["ms_patient19/flair.nii.gz", "niivue/chris_t1.nii.gz", "niivue/MR_Gd.nii.gz"]
)
def test_real_scans_agree_with_nibabel(shared_data: Path, name: str) -> None:
    image = nib.load(shared_data / "volumes" / name)
    volume = read_nifti(shared_data / "volumes" / name)
    np.testing.assert_allclose(volume.data.T, image.get_fdata(), rtol=1e-6)
    np.testing.assert_array_equal(volume.geometry.affine, image.affine)
