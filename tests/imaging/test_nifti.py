"""NIfTI in and out, against nibabel."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_spatial_ar.errors import InputError, StorageError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.inflate import Inflater
from napari_spatial_ar.imaging.nifti import Content, find_nifti, is_nifti, read_nifti, write_nifti
from napari_spatial_ar.imaging.nifti_header import read_header

LPS = np.diag([-0.5, -0.6, 3.0, 1.0])
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.2, -0.3, 0.1) @ np.diag([0.5, 0.6, 3.0]), (3, -4, 5)
)
SHEARED = OBLIQUE @ np.array([[1, 0, 0.5, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


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


def test_a_spacing_of_zero_is_not_taken_for_a_millimetre(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", ramp(), None)
    content = bytearray(path.read_bytes())
    content[80:84] = struct.pack("<f", 0)
    path.write_bytes(content)
    volume = read_nifti(path)
    assert not volume.geometry.spacing_known
    assert not volume.geometry.measurable
    assert "The file gives a spacing of 0 mm: lengths are in pixels." in volume.warnings


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


def with_quaternion(path: Path, parts: tuple[float, float, float], sform: bool) -> Path:
    """File with a qform of this quaternion, whatever nibabel thinks of it."""
    image = nib.Nifti1Image(ramp(), OBLIQUE)
    image.set_sform(OBLIQUE, code=int(sform))
    image.set_qform(np.diag([2.0, 2.0, 3.0, 1.0]), code=1)
    nib.save(image, path)
    raw = bytearray(path.read_bytes())
    raw[256:268] = np.array(parts, "<f4").tobytes()
    path.write_bytes(raw)
    return path


# Half turns about an axis: the part that is not stored is 0, and rounding may make it imaginary.
HALF_TURNS = [(0, 0.7071073, 0.7071073), (0, 0, 1.0000005), (0.5774, 0.5774, 0.5774)]


@pytest.mark.parametrize("parts", HALF_TURNS)
def test_a_quaternion_over_one_by_rounding_is_a_half_turn(
    tmp_path: Path, parts: tuple[float, float, float]
) -> None:
    path = with_quaternion(tmp_path / "a.nii", parts, sform=False)
    volume = read_nifti(path)
    axis = np.array(parts) / np.linalg.norm(parts)
    expected = (2 * np.outer(axis, axis) - np.eye(3)) * (2, 2, 3)
    np.testing.assert_allclose(volume.geometry.affine[:3, :3], expected, atol=1e-5)
    write_nifti(tmp_path / "mask.nii", volume.data > 9, volume.geometry, like=path)
    mask = nib.load(tmp_path / "mask.nii")
    np.testing.assert_allclose(mask.affine, volume.geometry.affine, atol=1e-5)
    with_sform = read_nifti(with_quaternion(tmp_path / "b.nii", parts, sform=True))
    np.testing.assert_allclose(with_sform.geometry.affine, OBLIQUE, atol=1e-6)
    assert any("differ by up to" in warning for warning in with_sform.warnings)


@pytest.mark.parametrize("parts", [(1.0, 1.0, 1.0), (0.0, np.nan, 1.0), (np.inf, 0.0, 0.0)])
def test_a_quaternion_that_is_none_leaves_the_sform(
    tmp_path: Path, parts: tuple[float, float, float]
) -> None:
    path = with_quaternion(tmp_path / "a.nii", parts, sform=True)
    volume = read_nifti(path)
    np.testing.assert_allclose(volume.geometry.affine, OBLIQUE, atol=1e-6)
    assert volume.warnings == ("The file's qform is not a rotation; its sform is used.",)
    write_nifti(tmp_path / "mask.nii", volume.data > 9, volume.geometry, like=path)
    assert nib.load(tmp_path / "mask.nii").get_qform(coded=True)[0] is None
    with pytest.raises(InputError, match="qform is not a rotation"):
        read_nifti(with_quaternion(tmp_path / "b.nii", parts, sform=False))


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
        (ramp(dtype="complex64"), "complex voxels"),
        (np.full((4, 4, 4), 7, dtype="int16"), "same value, 7"),
        (np.full((4, 4, 4), np.nan, dtype="float32"), "none of its voxels is a finite number"),
        (ramp((9,)), "not a 2-D or 3-D scan"),
    ],
)
def test_what_cannot_be_scored_is_refused(tmp_path: Path, array: np.ndarray, match: str) -> None:
    path = save(tmp_path / "a.nii", array)
    with pytest.raises(InputError, match=match) as caught:
        read_nifti(path)
    assert caught.value.path == path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_each_volume_of_four_axes_is_a_scan(tmp_path: Path, name: str) -> None:
    array = np.random.default_rng(2).integers(-99, 99, (4, 5, 6, 3, 2)).astype("int16")
    path = save(tmp_path / name, array)
    scans = find_nifti(path)
    assert [scan.series.label for scan in scans] == [
        f"NIfTI scan 4 x 5 x 6, volume {n} of 6" for n in range(1, 7)
    ]
    in_file_order = array.reshape(4, 5, 6, 6, order="F")
    for number in (5, 0, 3):
        np.testing.assert_array_equal(scans[number].read().data.T, in_file_order[..., number])
        np.testing.assert_array_equal(read_nifti(path, number).data.T, in_file_order[..., number])
    np.testing.assert_array_equal(scans[2].voxels.plane(1).T, in_file_order[:, :, 1, 2])
    with pytest.raises(InputError, match="holds 6 scans of 4 x 5 x 6"):
        read_nifti(path)
    for number in (-1, 6):
        with pytest.raises(InputError, match=f"no volume {number}: it holds 6"):
            read_nifti(path, number)


def test_a_mask_of_one_volume_lies_on_the_four_axes_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", ramp((7, 6, 5, 4)), OBLIQUE)
    volume = read_nifti(path, 2)
    write_nifti(tmp_path / "m.nii", volume.data > 9, volume.geometry, like=path)
    mask = nib.load(tmp_path / "m.nii")
    assert mask.shape == (7, 6, 5)
    np.testing.assert_array_equal(mask.affine, nib.load(path).affine)


def test_of_a_plain_file_only_the_volume_asked_for_is_read(tmp_path: Path) -> None:
    # The others are a hole in the file: reading them too would take 400 GB.
    shape = (100, 100, 20, 1000, 1000)
    image = nib.Nifti2Image(ramp((7, 6, 5)), LPS)
    image.header.set_data_shape(shape)
    raw = image.header.binaryblock + bytes(4)
    with open(tmp_path / "a.nii", "wb") as file:
        file.write(raw[:168] + struct.pack("<q", 544) + raw[176:])
        file.truncate(544 + 2 * int(np.prod(shape[:4])))
        file.seek(544 + 700 * 400_000)
        file.write(np.arange(200_000, dtype="<i2").tobytes())
    with pytest.raises(InputError, match="header claims 400000000000 bytes"):
        find_nifti(tmp_path / "a.nii")
    image.header.set_data_shape(shape[:4])
    raw = image.header.binaryblock + bytes(4)
    with open(tmp_path / "a.nii", "rb+") as file:
        file.write(raw[:168] + struct.pack("<q", 544) + raw[176:])
    scans = find_nifti(tmp_path / "a.nii")
    assert len(scans) == 1000
    expected = np.arange(200_000).astype("<i2").reshape(20, 100, 100)
    np.testing.assert_array_equal(scans[700].read().data, expected)
    np.testing.assert_array_equal(scans[700].voxels.plane(3), expected[3])


def test_too_many_volumes_are_not_listed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds 10001 volumes"):
        find_nifti(save(tmp_path / "a.nii", np.zeros((1, 1, 1, 10_001), "u1")))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("spacing", [(1, 1, 3), (1, 3, 1), (3, 1, 1)])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_a_slice_alone_is_the_slice_of_the_whole(
    tmp_path: Path, name: str, spacing: tuple[float, ...], dtype: str
) -> None:
    array = ramp(dtype=dtype)
    if dtype == "float32":
        array[2:4, 1, :] = [[np.nan] * 5, [-np.inf] * 5]
    scan = find_nifti(save(tmp_path / name, array, np.diag([*spacing, 1.0])))[0]
    whole = scan.read(lazy=False)
    for index in range(scan.geometry.slice_count):
        np.testing.assert_array_equal(scan.slice(index), whole.slice(index))
    np.testing.assert_array_equal(np.asarray(scan.read(lazy=True).data), whole.data)


def test_a_packed_file_is_unpacked_once_for_all_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.nii.gz", ramp())
    scan = find_nifti(path)[0]
    first = scan.slice(0)
    path.unlink()
    np.testing.assert_array_equal(scan.slice(0), first)
    assert scan.slice(4).max() == 209


def test_voxels_that_are_not_finite_become_the_lowest_with_a_count(tmp_path: Path) -> None:
    array = ramp(dtype="float64") + 10
    array[0, 0, :3] = np.nan, np.inf, 1e300
    array[1, 1, 1] = -np.inf
    volume = read_nifti(save(tmp_path / "a.nii", array))
    assert volume.data.T[0, 0, :4].tolist() == [13, 13, 13, 13]
    assert volume.data.T[1, 1, 1] == 13
    (warning,) = volume.warnings
    assert warning.startswith("4 of 210 voxels are not finite")
    assert warning.endswith("lowest finite value, 13.")


@pytest.mark.parametrize("channels", ["RGB", "RGBA"])
def test_colour_becomes_luminance(tmp_path: Path, channels: str) -> None:
    colours = np.random.default_rng(4).integers(0, 256, (7, 6, 5, len(channels))).astype("u1")
    packed = colours.view([(name, "u1") for name in channels])[..., 0]
    volume = read_nifti(save(tmp_path / "a.nii", packed))
    expected = colours[..., :3] @ np.array([0.299, 0.587, 0.114])
    if channels == "RGBA":
        expected *= colours[..., 3] / 255
    np.testing.assert_allclose(volume.data.T, expected, atol=1e-3)
    assert volume.intensity == "grey8"
    assert volume.warnings == ("Colour was converted to grey (luminance).",)


def with_scaling(path: Path, slope: float, inter: float) -> Path:
    """The same voxels, scaled by the header."""
    raw = bytearray(save(path, ramp()).read_bytes())
    raw[112:120] = struct.pack("<2f", slope, inter)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("slope", [0.0, np.nan, 1.0])
def test_no_slope_means_no_scaling(tmp_path: Path, slope: float) -> None:
    path = with_scaling(tmp_path / "a.nii", slope, 5.0 if slope != 1 else 0.0)
    np.testing.assert_array_equal(read_nifti(path).data.T, ramp())
    np.testing.assert_array_equal(nib.load(path).get_fdata(), ramp())


def test_an_intercept_that_is_no_number_is_refused(tmp_path: Path) -> None:
    path = with_scaling(tmp_path / "a.nii", 2.0, np.nan)
    with pytest.raises(InputError, match="scl_inter"):
        find_nifti(path)


@pytest.mark.parametrize("dtype", ["i1", "u2", "u4", "i8", "u8", "f8"])
@pytest.mark.parametrize("order", "<>")
def test_scaled_numbers_agree_with_nibabel(tmp_path: Path, dtype: str, order: str) -> None:
    kind = np.dtype(dtype).newbyteorder(order)
    image = nib.Nifti1Image(ramp((7, 6, 3)).astype(kind), LPS, dtype=kind)
    header = image.header.as_byteswapped(order)
    header["vox_offset"] = 352
    raw = bytearray(header.binaryblock + bytes(4) + ramp((7, 6, 3)).astype(kind).tobytes("F"))
    raw[112:120] = struct.pack(order + "2f", 0.37, -4.5)
    (tmp_path / "a.nii").write_bytes(raw)
    expected = nib.load(tmp_path / "a.nii").get_fdata()
    assert expected.max() > 40
    np.testing.assert_allclose(read_nifti(tmp_path / "a.nii").data.T, expected, rtol=1e-6)


def test_the_display_window_is_taken_from_the_header(tmp_path: Path) -> None:
    assert find_nifti(save(tmp_path / "a.nii", ramp()))[0].window is None
    assert find_nifti(save(tmp_path / "b.nii", ramp(), cal_min=-20, cal_max=90))[0].window == (
        -20,
        90,
    )
    assert find_nifti(save(tmp_path / "c.nii", ramp(), cal_min=5, cal_max=5))[0].window is None
    assert find_nifti(save(tmp_path / "d.nii", ramp(), cal_min=5, cal_max=np.inf))[0].window is None


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
def test_a_scan_in_two_files_is_read(tmp_path: Path, kind: type) -> None:
    nib.save(kind(ramp(), OBLIQUE), tmp_path / "a.hdr")
    volume = read_nifti(tmp_path / "a.hdr")
    np.testing.assert_array_equal(volume.data.T, ramp())
    np.testing.assert_allclose(volume.geometry.affine, OBLIQUE, atol=1e-5)
    assert [path.name for path in volume.series.files] == ["a.hdr", "a.img"]
    write_nifti(tmp_path / "m.nii", volume.data > 3, volume.geometry, like=volume.path)
    np.testing.assert_allclose(nib.load(tmp_path / "m.nii").affine, OBLIQUE, atol=1e-6)
    (tmp_path / "a.img").unlink()
    with pytest.raises(InputError, match=r"\.img file is not in the same folder"):
        find_nifti(tmp_path / "a.hdr")


def test_analyze_is_refused_because_it_has_no_left(tmp_path: Path) -> None:
    nib.save(nib.AnalyzeImage(ramp(), LPS), tmp_path / "a.img")
    with pytest.raises(InputError, match=r"Analyze 7\.5 .* which side of the patient is left"):
        find_nifti(tmp_path / "a.hdr")


@pytest.mark.parametrize(("size", "warned"), [(250.0, True), (1e-6, True), (40.0, False)])
def test_a_voxel_size_that_cannot_be_is_warned_of(
    tmp_path: Path, size: float, warned: bool
) -> None:
    volume = read_nifti(save(tmp_path / "a.nii", ramp(), np.diag([1, 1, size, 1])))
    assert any("not likely" in w and f"{size:g}" in w for w in volume.warnings) == warned


def test_voxel_sizes_below_zero_count_as_above(tmp_path: Path) -> None:
    raw = bytearray(save(tmp_path / "a.nii", ramp(), None).read_bytes())
    raw[80:92] = struct.pack("<3f", -2, 3, -4)
    (tmp_path / "a.nii").write_bytes(raw)
    volume = read_nifti(tmp_path / "a.nii")
    assert volume.geometry.spacing == (4, 3, 2)
    np.testing.assert_allclose(volume.geometry.affine, nib.load(tmp_path / "a.nii").affine)


def test_an_sform_of_nothing_leaves_the_qform(tmp_path: Path) -> None:
    image = nib.Nifti1Image(ramp(), OBLIQUE)
    image.set_qform(OBLIQUE, code=1)
    nib.save(image, tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[280:328] = bytes(48)
    (tmp_path / "a.nii").write_bytes(raw)
    volume = read_nifti(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.geometry.affine, OBLIQUE, atol=1e-5)
    assert "its qform is used" in volume.warnings[0]


AXIS_ORDERS = [
    np.array([[s * (a == w) for a, s in zip(axes, signs, strict=True)] for w in range(3)])
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((-1.0, 1.0), repeat=3)
]


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize(
    "axes", AXIS_ORDERS, ids=lambda m: "".join(nib.aff2axcodes(nib.affines.from_matvec(m)))
)
def test_a_marked_voxel_stays_where_it_is_in_the_patient(
    tmp_path: Path, axes: np.ndarray, oblique: bool
) -> None:
    affine = nib.affines.from_matvec(axes @ np.diag([0.7, 0.9, 2.5]), (-11, 22, 33))
    if oblique:
        turn = nib.eulerangles.euler2mat(0.2, -0.15, 0.1)
        affine[:3, :3] = turn @ affine[:3, :3]
    array = np.zeros((7, 6, 5), "int16")
    array[5, 1, 3] = 100
    volume = read_nifti(save(tmp_path / "a.nii.gz", array, affine))
    image = nib.load(tmp_path / "a.nii.gz")
    expected = image.affine @ (5, 1, 3, 1)
    z, y, x = np.argwhere(volume.data == 100)[0]
    np.testing.assert_allclose(volume.geometry.affine @ (x, y, z, 1), expected, atol=1e-5)
    # On the screen: (S, P, L) of nibabel's closest canonical (R, A, S) voxels.
    canonical = np.asanyarray(nib.as_closest_canonical(image).dataobj)
    np.testing.assert_array_equal(
        volume.geometry.to_display(volume.data), canonical.transpose(2, 1, 0)[:, ::-1, ::-1]
    )
    write_nifti(tmp_path / "m.nii", volume.data, volume.geometry, like=tmp_path / "a.nii.gz")
    mask = nib.load(tmp_path / "m.nii")
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), array)
    np.testing.assert_array_equal(mask.affine, image.affine)


def test_no_affine_is_written_for_uneven_slices(tmp_path: Path) -> None:
    positions = np.array([[0, 0, z] for z in (0.0, 3, 9, 12, 15)])
    geometry = Geometry((5, 6, 7), LPS, regular=False, slice_positions=positions)
    write_nifti(tmp_path / "m.nii.gz", ramp((5, 6, 7), "uint8"), geometry)
    header = nib.load(tmp_path / "m.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (0, 0)
    assert header.get_xyzt_units()[0] == "unknown"
    assert header["descrip"].item() == b"slices unevenly spaced: no valid affine"
    content = Content("mask", "Flagged regions, not for diagnosis; model brain-flair", "label")
    write_nifti(tmp_path / "n.nii.gz", ramp((5, 6, 7), "uint8"), geometry, content=content)
    header = nib.load(tmp_path / "n.nii.gz").header
    said = b"slices unevenly spaced: no valid affine; Flagged regions, not for diagnosis; mo"
    assert header["descrip"].item() == said
    assert read_header(tmp_path / "n.nii.gz").uneven
    np.testing.assert_array_equal(
        np.asanyarray(nib.load(tmp_path / "m.nii.gz").dataobj).T, ramp((5, 6, 7))
    )


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
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        write_nifti(tmp_path / "m.nii.gz", ramp((5, 6, 7), "uint8"), Geometry((5, 6, 7), LPS))
    assert list(tmp_path.iterdir()) == []


def test_the_header_says_what_the_voxels_are(tmp_path: Path) -> None:
    content = Content("a long name of 22 bytes", "Größe in µm, " + 99 * "x", "estimate")
    write_nifti(
        tmp_path / "a.nii", ramp((5, 6, 7), "uint8"), Geometry((5, 6, 7), LPS), content=content
    )
    header = nib.load(tmp_path / "a.nii").header
    assert header.get_intent() == ("estimate", (), "a long name of ")
    assert header["descrip"].item() == b"Gr??e in ?m, " + 66 * b"x"


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


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_no_bit_flipped_in_a_packed_file_gives_other_voxels(tmp_path: Path, kind: type) -> None:
    random = np.random.default_rng(7)
    array = (random.integers(0, 700, (12, 11, 10)) * (random.random((12, 11, 10)) < 0.4)).astype(
        "i2"
    )
    raw = gzip.compress(kind(array, LPS).to_bytes(), mtime=0)
    path = tmp_path / "a.nii.gz"
    outcomes = set()
    for place in [*range(20), *random.integers(20, len(raw) - 8, 150), *range(-8, 0)]:
        damaged = bytearray(raw)
        damaged[place] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        os.utime(path, ns=(0, int(place) + 1000))
        for read in (lambda: find_nifti(path)[0].slice(0), lambda: read_nifti(path).data):
            try:
                voxels = read()
            except InputError as error:
                outcomes.add(error.path)
            else:
                outcomes.add("equal")
                np.testing.assert_array_equal(voxels, array.T if voxels.ndim == 3 else array.T[0])
    assert outcomes == {"equal", path}


def test_a_packed_file_is_read_to_its_end_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.nii.gz", ramp((40, 40, 40, 3), "int32"))
    monkeypatch.setattr("napari_spatial_ar.imaging.nifti_voxels._KEPT_WHOLE_BYTES", 0)
    ends = []
    finish = Inflater.finish
    monkeypatch.setattr(Inflater, "finish", lambda self: (ends.append(1), finish(self)))
    scans = find_nifti(path)
    for scan in scans:
        scan.slice(3)
    assert len(ends) == 1
    os.utime(path, ns=(0, 1))
    scans[0].read()
    assert len(ends) == 2


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("gap", [4, 0])
def test_voxels_inside_the_header_are_looked_for_behind_it(
    tmp_path: Path, name: str, kind: type, gap: int
) -> None:
    raw = bytearray(kind(ramp(), LPS).to_bytes())
    first = kind is nib.Nifti1Image
    header = 348 if first else 540
    voxels = raw[header + 4 :]
    place = slice(108, 112) if first else slice(168, 176)
    for offset in (0, 100):
        raw[place] = struct.pack("<f", offset) if first else struct.pack("<q", offset)
        whole = bytes(raw[:header]) + bytes(gap) + bytes(voxels)
        (tmp_path / name).write_bytes(gzip.compress(whole) if name.endswith("gz") else whole)
        volume = read_nifti(tmp_path / name)
        np.testing.assert_array_equal(volume.data, ramp().T)
        assert any(f"they begin at byte {header + gap}" in w for w in volume.warnings)
    longer = bytes(raw[:header]) + bytes(32) + bytes(voxels)
    (tmp_path / name).write_bytes(gzip.compress(longer) if name.endswith("gz") else longer)
    with pytest.raises(InputError, match="voxels begin at byte 100, which is impossible"):
        find_nifti(tmp_path / name)


@pytest.mark.parametrize("offset", [-1.0, 352.5, float("nan"), float("inf"), 1e12])
def test_an_offset_that_cannot_be_is_refused(tmp_path: Path, offset: float) -> None:
    path = save(tmp_path / "a.nii", ramp())
    raw = bytearray(path.read_bytes())
    raw[108:112] = struct.pack("<f", offset)
    path.write_bytes(raw + b"\0" * 3)
    with pytest.raises(InputError, match=r"which is impossible|header claims"):
        find_nifti(path)


def test_a_size_of_nothing_beyond_the_third_axis_is_one(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", ramp())
    raw = bytearray(path.read_bytes())
    raw[40:56] = struct.pack("<8h", 5, 7, 6, 5, 0, 1, 0, 0)
    path.write_bytes(raw)
    volume = read_nifti(path)
    np.testing.assert_array_equal(volume.data, ramp().T)
    assert any("size of 0 along dim[4]" in w for w in volume.warnings)
    raw[40:56] = struct.pack("<8h", 4, 7, 6, 0, 1, 1, 1, 1)
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"dim\[3\] is 0"):
        find_nifti(path)


def test_more_in_a_file_than_its_header_speaks_of_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", ramp((7, 6, 5, 3)))
    raw = bytearray(path.read_bytes())
    raw[40:42] = struct.pack("<h", 3)  # three axes, and voxels of four
    path.write_bytes(raw)
    volume = read_nifti(path)
    assert any("840 bytes after the voxels" in warning for warning in volume.warnings)


@pytest.mark.parametrize(
    ("dtype", "base"),
    [
        ("uint64", 2**40),
        ("int64", -(2**50)),
        ("uint32", 2**31),
        ("int32", 2**26),
        ("float64", 1e12),
    ],
)
def test_numbers_that_float32_cannot_hold_count_from_the_lowest(
    tmp_path: Path, dtype: str, base: float
) -> None:
    values = ramp() * 3
    array = values.astype(dtype) + np.array(base).astype(dtype)
    path = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(array, LPS, dtype=dtype), path)
    (scan,) = find_nifti(path)
    volume = scan.read()
    np.testing.assert_array_equal(volume.data, values.T)
    np.testing.assert_array_equal(scan.slice(2), volume.slice(2))
    assert any(f"{base} was subtracted from all" in w for w in volume.warnings)


def test_large_whole_numbers_that_are_rounded_are_told(tmp_path: Path) -> None:
    array = ramp().astype("int32")
    array[0, 0, 0] = 2**24 + 1
    nib.save(nib.Nifti1Image(array, LPS, dtype="int32"), tmp_path / "a.nii")
    volume = read_nifti(tmp_path / "a.nii")
    assert volume.data[0, 0, 0] == 2**24
    assert any("reach 16777217, where float32" in w for w in volume.warnings)
    array[0, 0, 0] = 2**24
    nib.save(nib.Nifti1Image(array, LPS, dtype="int32"), tmp_path / "a.nii")
    assert read_nifti(tmp_path / "a.nii").warnings == ()


def test_a_large_intercept_does_not_swallow_differences(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", ramp())
    raw = bytearray(path.read_bytes())
    raw[112:120] = struct.pack("<2f", 2, 2**30)
    path.write_bytes(raw)
    volume = read_nifti(path)
    np.testing.assert_array_equal(volume.data, ramp().T * 2)
    assert any("was subtracted from all" in w for w in volume.warnings)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(
    ("field", "place", "value"),
    [
        ("dim", 0, 0),
        ("dim", 0, 9),
        ("dim", 1, 0),
        ("dim", 2, -1),
        ("dim", 3, -7),
        ("dim", 4, -1),
        ("datatype", None, 77),
    ],
)
def test_a_number_that_cannot_be_is_named(
    tmp_path: Path, kind: type, field: str, place: int | None, value: int
) -> None:
    image = kind(np.arange(120, dtype=np.int16).reshape(4, 5, 3, 2), np.eye(4))
    path = tmp_path / "a.nii"
    nib.save(image, path)
    raw = bytearray(path.read_bytes())
    header = kind.header_class.from_fileobj(io.BytesIO(raw), check=False)
    start = header.template_dtype.fields[field][1]
    size = header[field].dtype.itemsize
    start += size * (place or 0)
    raw[start : start + size] = value.to_bytes(size, "little", signed=True)
    path.write_bytes(raw)
    name = field if place is None else f"{field}[{place}]"
    with pytest.raises(InputError) as caught:
        find_nifti(path)
    assert caught.value.what == f"according to its header, {name} is {value}, which is impossible"


def test_a_packed_header_of_two_files_is_read_to_its_checksum(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(ramp(), LPS), tmp_path / "a.img")
    raw = gzip.compress((tmp_path / "a.hdr").read_bytes(), mtime=0)
    (tmp_path / "a.hdr").unlink()
    path = tmp_path / "a.hdr.gz"
    path.write_bytes(raw)
    np.testing.assert_array_equal(read_nifti(path).data, ramp().T)
    path.write_bytes(raw[:-6] + bytes([raw[-6] ^ 1]) + raw[-5:])
    with pytest.raises(InputError, match="damaged") as caught:
        find_nifti(path)
    assert caught.value.path == path
