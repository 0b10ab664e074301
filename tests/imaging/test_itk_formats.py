"""NRRD and MetaImage, against pynrrd and files laid out by hand."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging import itk_formats
from napari_spatial_ar.imaging.itk_formats import find_itk
from napari_spatial_ar.imaging.nifti import write_nifti
from napari_spatial_ar.imaging.reading import find_scans, read

nrrd = pytest.importorskip("nrrd")
pytest.importorskip("SimpleITK")

LPS_TO_RAS = np.diag([-1.0, -1, 1, 1])
# (i, j, k) to LPS millimetres: the rows of NRRD's space directions are its columns.
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.2, -0.3, 0.1) @ np.diag([0.5, 0.6, 3.0]), (3, -4, 5)
)


def ramp(shape: tuple[int, ...] = (7, 6, 5), dtype: str = "int16") -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save_nrrd(
    path: Path, array: np.ndarray, lps: np.ndarray = OBLIQUE, index_order: str = "F", **header: Any
) -> Path:
    fields = {"space": "LPS", "space directions": lps[:3, :3].T, "space origin": lps[:3, 3]}
    nrrd.write(str(path), array, {**fields, **header}, index_order=index_order)
    return path


def save_meta(path: Path, array: np.ndarray, lps: np.ndarray = OBLIQUE, **fields: str) -> Path:
    """A MetaImage of an array (i, j, k) by its published layout."""
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    header = {
        "ObjectType": "Image",
        "NDims": str(array.ndim),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "TransformMatrix": " ".join(map(str, (lps[:3, :3] / spacing).T.ravel())),
        "Offset": " ".join(map(str, lps[:3, 3])),
        "ElementSpacing": " ".join(map(str, spacing)),
        "DimSize": " ".join(map(str, array.shape)),
        "ElementType": {"int16": "MET_SHORT", "uint8": "MET_UCHAR", "float32": "MET_FLOAT"}[
            array.dtype.name
        ],
        "ElementDataFile": "LOCAL",
        **fields,
    }
    last = header.pop("ElementDataFile")
    text = "".join(f"{name} = {value}\n" for name, value in header.items() if value)
    raw = array.tobytes(order="F")
    path.write_bytes(f"{text}ElementDataFile = {last}\n".encode() + raw * (last == "LOCAL"))
    if last != "LOCAL" and "/" not in last:
        path.with_name(last).write_bytes(raw)
    return path


AXIS_ORDERS = [
    np.array([[s * (a == w) for a, s in zip(axes, signs, strict=True)] for w in range(3)])
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((-1.0, 1.0), repeat=3)
]


@pytest.mark.parametrize("kind", ["nrrd", "mha"])
@pytest.mark.parametrize(
    "axes", AXIS_ORDERS, ids=lambda m: "".join(nib.aff2axcodes(nib.affines.from_matvec(m)))
)
def test_a_marked_voxel_stays_where_it_is_in_the_patient(
    tmp_path: Path, axes: np.ndarray, kind: str
) -> None:
    lps = nib.affines.from_matvec(axes @ np.diag([0.7, 0.9, 2.5]), (-11, 22, 33))
    array = np.zeros((7, 6, 5), "int16")
    array[5, 1, 3] = 100
    path = (save_nrrd if kind == "nrrd" else save_meta)(tmp_path / f"a.{kind}", array, lps)
    (volume,) = read(path)
    assert volume.warnings == ()
    assert volume.series.label == {"nrrd": "NRRD", "mha": "MetaImage"}[kind] + " scan 7 x 6 x 5"
    expected = LPS_TO_RAS @ lps @ (5, 1, 3, 1)
    z, y, x = np.argwhere(volume.data == 100)[0]
    np.testing.assert_allclose(volume.geometry.affine @ (x, y, z, 1), expected, atol=1e-6)
    # Left is left: the display grid's mark, in (S, P, L), where the patient's coordinates say.
    s, p, left = np.argwhere(volume.geometry.to_display(volume.data) == 100)[0]
    place = np.array([s, p, left]) * volume.geometry.display_spacing
    place += volume.geometry.display_translate
    np.testing.assert_allclose(place, (expected[2], -expected[1], -expected[0]), atol=1e-6)
    write_nifti(tmp_path / "m.nii", volume.data, volume.geometry)
    mask = nib.load(tmp_path / "m.nii")
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), array)
    np.testing.assert_allclose(mask.affine, LPS_TO_RAS @ lps, atol=1e-5)


@pytest.mark.parametrize("space", ["RAS", "LAS", "left-posterior-superior"])
def test_nrrd_spaces_are_told_apart(tmp_path: Path, space: str) -> None:
    (scan,) = find_itk(save_nrrd(tmp_path / "a.nrrd", ramp(), space=space))
    signs = {"R": (1, 1, 1), "L": (-1, 1, 1), "l": (-1, -1, 1)}[space[0]]
    np.testing.assert_allclose(scan.geometry.affine, np.diag([*signs, 1]) @ OBLIQUE, atol=1e-9)
    assert scan.warnings == ()


@pytest.mark.parametrize("encoding", ["raw", "gzip", "ascii"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64", "float64"])
def test_every_packing_and_number_type_is_read(tmp_path: Path, encoding: str, dtype: str) -> None:
    path = save_nrrd(tmp_path / "a.nrrd", ramp((4, 3, 5), dtype), encoding=encoding)
    (scan,) = find_itk(path)
    volume = scan.read()
    np.testing.assert_array_equal(volume.data.T, ramp((4, 3, 5)))
    assert volume.intensity == ("grey8" if dtype == "uint8" else "arbitrary")
    for index in range(scan.geometry.slice_count):
        np.testing.assert_array_equal(scan.slice(index), volume.slice(index))


@pytest.mark.parametrize("name", ["a.nhdr", "a.mhd"])
def test_a_header_with_its_voxels_beside_it(tmp_path: Path, name: str) -> None:
    if name == "a.nhdr":
        save_nrrd(tmp_path / name, ramp(), encoding="raw")
    else:
        save_meta(tmp_path / name, ramp(), ElementDataFile="a.raw")
    found = find_scans(tmp_path)
    assert (len(found.scans), found.errors) == (1, ())
    volume = found.scans[0].read()
    np.testing.assert_array_equal(volume.data.T, ramp())
    assert sorted(p.name for p in volume.series.files) == [name, "a.raw"]
    (tmp_path / "a.raw").unlink()
    with pytest.raises(InputError, match="not in the same folder"):
        find_itk(tmp_path / name)


@pytest.mark.parametrize("target", ["../secret.raw", "/etc/passwd", "link.raw", "./../secret.raw"])
@pytest.mark.parametrize("name", ["a.nhdr", "a.mhd", "comment.mhd"])
def test_a_header_may_not_name_a_file_elsewhere(tmp_path: Path, target: str, name: str) -> None:
    (tmp_path / "secret.raw").write_bytes(bytes(5000))
    folder = tmp_path / "folder"
    folder.mkdir()
    os.symlink(tmp_path / "secret.raw", folder / "link.raw")
    if name == "a.nhdr":
        save_nrrd(folder / name, ramp(), encoding="raw")
        text = (folder / name).read_text().replace("a.raw", target)
        (folder / name).write_text(text)
    else:
        comment = "ElementDataFile = LOCAL" if name == "comment.mhd" else ""
        save_meta(folder / name, ramp(), Comment=comment, ElementDataFile="x/y")
        text = (folder / name).read_text().replace("x/y", target)
        (folder / name).write_text(text)
    with pytest.raises(InputError, match="outside its folder"):
        find_itk(folder / name)


def test_voxels_in_a_file_for_each_slice_are_refused(tmp_path: Path) -> None:
    path = save_meta(tmp_path / "a.mhd", ramp(), ElementDataFile="x/y")
    path.write_text(path.read_text().replace("x/y", "slice%03d.raw 1 5 1"))
    with pytest.raises(InputError, match="one file per slice"):
        find_itk(path)


def test_each_volume_of_four_axes_is_a_scan(tmp_path: Path) -> None:
    array = ramp((4, 5, 6, 3))
    nrrd.write(str(tmp_path / "a.nrrd"), array, {"spacings": [1, 2, 3, 4.0]})
    directions = np.vstack(([np.nan] * 3, np.diag([1.0, 2, 3])))
    first = save_nrrd(
        tmp_path / "b.nrrd",
        np.moveaxis(array, -1, 0),
        **{"space directions": directions, "kinds": ["list", "domain", "domain", "domain"]},
    )
    for path in (tmp_path / "a.nrrd", first):
        scans = find_itk(path)
        assert [s.series.label for s in scans] == [
            f"NRRD scan 4 x 5 x 6, volume {n} of 3" for n in (1, 2, 3)
        ]
        for number, scan in enumerate(scans):
            np.testing.assert_array_equal(scan.read().data.T, array[..., number])
            np.testing.assert_allclose(scan.geometry.spacing, (3, 2, 1))


def test_colour_becomes_luminance(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (3, 4, 5, 6)).astype("u1")
    directions = np.vstack(([np.nan] * 3, np.eye(3)))
    kinds = ["RGB-color", "domain", "domain", "domain"]
    path = save_nrrd(
        tmp_path / "a.nrrd", colours, **{"space directions": directions, "kinds": kinds}
    )
    (volume,) = read(path)
    np.testing.assert_allclose(
        volume.data.T, np.tensordot([0.299, 0.587, 0.114], colours, 1), atol=1e-3
    )
    assert any("luminance" in w for w in volume.warnings)


def test_voxels_that_are_not_finite_become_the_lowest(tmp_path: Path) -> None:
    array = ramp(dtype="float32") + 5
    array[0, 0, 2] = np.nan
    (scan,) = find_itk(save_nrrd(tmp_path / "a.nrrd", array))
    volume = scan.read()
    assert volume.data[2, 0, 0] == 5
    assert volume.warnings[0].startswith("1 of 210 voxel")
    np.testing.assert_array_equal(scan.slice(2), volume.slice(2))


@pytest.mark.parametrize(("unit", "mm"), [("um", 0.001), ("cm", 10), ("mm", 1), ("parsec", None)])
@pytest.mark.parametrize("kind", ["nrrd", "mha"])
def test_units_of_length(tmp_path: Path, kind: str, unit: str, mm: float | None) -> None:
    if kind == "nrrd":
        path = save_nrrd(tmp_path / "a.nrrd", ramp(), **{"space units": [unit] * 3})
    else:
        path = save_meta(tmp_path / "a.mha", ramp(), DistanceUnits=unit)
    (scan,) = find_itk(path)
    expected = LPS_TO_RAS @ OBLIQUE
    expected[:3] *= mm or 1
    np.testing.assert_allclose(scan.geometry.affine, expected, atol=1e-9)
    assert len(scan.warnings) == (mm != 1)
    assert all("lengths are in" in w or "unit of length" in w for w in scan.warnings)


def test_what_the_file_does_not_say_is_warned_of(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), ramp())
    save_meta(tmp_path / "b.mha", ramp(), TransformMatrix="", ElementSpacing="")
    nrrd.write(str(tmp_path / "c.nrrd"), ramp(), {"spacings": [1, 2, 3.0]})
    save_nrrd(tmp_path / "d.nrrd", ramp(), space="scanner-xyz")
    for name, known in (("a.nrrd", False), ("b.mha", False), ("c.nrrd", True), ("d.nrrd", True)):
        (scan,) = find_itk(tmp_path / name)
        assert scan.geometry.spacing_known == known
        assert any("left and right may be wrong" in w for w in scan.warnings)
        assert any("lengths are in pixels" in w for w in scan.warnings) != known


def test_bzip2_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bzip2"):
        find_itk(save_nrrd(tmp_path / "a.nrrd", ramp(), encoding="bzip2"))


def test_a_picture_is_one_slice(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), ramp((7, 6)), {"spacings": [2, 3.0]})
    (volume,) = read(tmp_path / "a.nrrd")
    assert volume.data.shape == (1, 6, 7)
    assert volume.geometry.spacing == (1, 3, 2)


def damaged(kind: str, raw: bytes) -> bytes:
    return {
        "cut in the header": raw[:40],
        "cut in the voxels": raw[:-30],
        "claims much": raw.replace(b"7 6 5", b"70000 60000 50000"),
        "no size": raw.replace(b"7 6 5", b"7 0 5"),
        "below zero": raw.replace(b"7 6 5", b"7 -6 5"),
        "no number": raw.replace(b"7 6 5", b"7 x 5"),
        "noise": raw[:8] + bytes(range(256)) * 4,
    }[kind]


@pytest.mark.parametrize("suffix", ["nrrd", "packed nrrd", "mha"])
@pytest.mark.parametrize(
    "kind",
    [
        *("cut in the header", "cut in the voxels", "claims much", "no size", "below zero"),
        *("no number", "noise"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"a.{suffix[-4:].strip()}"
    if suffix != "mha":
        save_nrrd(path, ramp(), encoding="gzip" if "packed" in suffix else "raw")
    else:
        save_meta(path, ramp())
    path.write_bytes(damaged(kind, path.read_bytes()))
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.path == path
    assert "\n" not in str(caught.value)


def test_without_simpleitk_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    path = save_nrrd(tmp_path / "a.nrrd", ramp())
    monkeypatch.setattr(itk_formats.importlib, "import_module", missing)
    with pytest.raises(InputError, match=r'pip install "napari-spatial-ar\[itk\]"'):
        find_itk(path)


HOSTILE = {
    "twelve axes.nrrd": b"NRRD0004\ntype: uchar\ndimension: 12\nsizes: "
    + b"1 " * 12
    + b"\nencoding: raw\n\n"
    + bytes(16),
    "a hundred thousand axes.mha": b"ObjectType = Image\nNDims = 100000\nDimSize = "
    + b"1 " * 100_000
    + b"\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    + bytes(16),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_more_axes_than_a_scan_has_are_refused(tmp_path: Path, name: str) -> None:
    """SimpleITK ends the process over them."""
    (tmp_path / name).write_bytes(HOSTILE[name])
    with pytest.raises(InputError, match="-D image, which is not") as caught:
        read(tmp_path / name)
    assert caught.value.path == tmp_path / name


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (b"dimension: 3", b"dimension: 16", "16-D image"),
        (b"dimension: 3", b"dimension: 1", "1-D image"),
        (b"dimension: 3", b"dimension: -3", "above 0 for its dimension"),
        (b"dimension: 3", b"dimension: 3000000000000", "above 0 for its dimension"),
        (b"dimension: 3", b"dimension: 3\ndimension: 12", "two values for dimension"),
        (b"sizes: 7 6 5", b"sizes: 7 6", "3 whole numbers above 0"),
        (b"sizes: 7 6 5", b"sizes: 7 6 5 1 1 1 1", "3 whole numbers above 0"),
        (b"sizes: 7 6 5", b"sizes: 7 6 99999999999", "3 whole numbers above 0"),
        (b"sizes: 7 6 5", b"sizes: 70000 60000 50000", "more than the file can hold"),
        (b"type: int16", b"type: block", r"type that cannot be read \(block\)"),
        (b"sizes:", b"byte skip: -9\nsizes:", "no whole number for its byte skip"),
        (b"sizes:", b"byte skip: 9999999\nsizes:", "more than the file can hold"),
        (b"sizes:", b"spacings: 1 2\nsizes:", "2 values for its spacings, not 3"),
    ],
)
def test_a_header_of_nrrd_that_does_not_hold_together(
    tmp_path: Path, old: bytes, new: bytes, match: str
) -> None:
    path = save_nrrd(tmp_path / "a.nrrd", ramp(), encoding="raw")
    raw = path.read_bytes().replace(b"type: short", b"type: int16")
    assert raw.count(old) == 1
    path.write_bytes(raw.replace(old, new))
    with pytest.raises(InputError, match=match):
        find_itk(path)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (b"NDims = 3", b"NDims = 12", "12-D image"),
        (b"NDims = 3", b"NDims = x", "above 0 for its ndims"),
        (b"NDims = 3", b"NDims = 3\nNDims = 9", "two values for NDims"),
        (b"DimSize = 7 6 5", b"DimSize = 7 6 5 4", "3 whole numbers above 0"),
        (b"DimSize = 7 6 5", b"DimSize = 7 6 0", "3 whole numbers above 0"),
        (b"MET_SHORT", b"MET_NONE", r"type that cannot be read \(MET_NONE\)"),
        (b"ElementSpacing = ", b"ElementSpacing = 1 ", "4 values for its elementspacing, not 3"),
        (b"TransformMatrix = ", b"TransformMatrix = 1 ", "10 values for its transformmatrix"),
        (b"DimSize", b"ElementNumberOfChannels = 2000000000\nDimSize", "more than the file can"),
        (b"DimSize", b"HeaderSize = 99999\nDimSize", "more than the file can hold"),
    ],
)
def test_a_header_of_metaimage_that_does_not_hold_together(
    tmp_path: Path, old: bytes, new: bytes, match: str
) -> None:
    path = save_meta(tmp_path / "a.mha", ramp())
    raw = path.read_bytes()
    assert raw.count(old) == 1
    path.write_bytes(raw.replace(old, new))
    with pytest.raises(InputError, match=match):
        find_itk(path)


@pytest.mark.parametrize("where", ["attached", "detached"])
@pytest.mark.parametrize("skip", ["byte skip: 5", "byte skip: -1", "line skip: 2", ""])
def test_voxels_behind_something_else(tmp_path: Path, where: str, skip: str) -> None:
    before = {"byte skip: 5": b"01234", "line skip: 2": b"one\ntwo\n"}.get(skip, b"")
    before = b"anything" if "-1" in skip else before
    head = f"NRRD0004\ntype: int16\ndimension: 3\nsizes: 7 6 5\nencoding: raw\n{skip}\n"
    head = head.replace("\n\n", "\n") + "endian: little\n"
    voxels = before + ramp().tobytes(order="F")
    if where == "attached":
        (tmp_path / "a.nrrd").write_bytes(head.encode() + b"\n" + voxels)
    else:
        (tmp_path / "a.nrrd").write_bytes(head.encode() + b"data file: a.bin\n")
        (tmp_path / "a.bin").write_bytes(voxels)
    (scan,) = find_itk(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(scan.read().data.T, ramp())


@pytest.mark.parametrize("suffix", ["nrrd", "nhdr", "mha", "mhd"])
def test_no_flipped_bit_in_packed_voxels_gives_others(tmp_path: Path, suffix: str) -> None:
    random = np.random.default_rng(4)
    array = random.integers(0, 900, (12, 11, 10)).astype("int16")
    path = tmp_path / f"a.{suffix}"
    sitk = pytest.importorskip("SimpleITK")
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path), useCompression=True)
    voxel_file = next((other for other in tmp_path.iterdir() if other != path), path)
    whole = voxel_file.read_bytes()
    start = max(whole.find(b"\n\n") + 2, whole.find(b"LOCAL\n") + 6) if voxel_file == path else 0
    outcomes = set()
    for place in [*range(start, start + 12), *random.integers(start, len(whole), 120)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(random.integers(8))
        voxel_file.write_bytes(damaged)
        os.utime(voxel_file, ns=(0, int(place) + 1))
        try:
            voxels = find_itk(path)[0].read().data
        except InputError as error:
            outcomes.add(error.path)
        else:
            outcomes.add("equal")
            np.testing.assert_array_equal(voxels, array)
    assert voxel_file in outcomes


def test_large_numbers_count_from_the_lowest(tmp_path: Path) -> None:
    array = ramp(dtype="int64") + 2**40
    (scan,) = find_itk(save_nrrd(tmp_path / "a.nrrd", array))
    volume = scan.read()
    np.testing.assert_array_equal(volume.data.T, ramp())
    np.testing.assert_array_equal(scan.slice(2), volume.slice(2))
    assert any("1099511627776 was subtracted" in w for w in volume.warnings)
