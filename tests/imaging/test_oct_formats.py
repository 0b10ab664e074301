"""OCT files, made here by their published layouts: no scanner's own file is at hand."""

from __future__ import annotations

import importlib.util
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging import oct
from napari_spatial_ar.imaging.oct import find_oct
from napari_spatial_ar.imaging.reading import find_sources, read

PATIENT = b"DOE^JOHN 19700131"
# Three B-scans of 7 samples and 8 A-scans.
SCANS = np.random.default_rng(6).integers(0, 256, (3, 7, 8)).astype(np.uint8)


def vol(
    scans: np.ndarray = SCANS, eye: bytes = b"OD", pattern: int = 3, step: float = 0.24
) -> bytes:
    """A Heidelberg .vol: header, SLO image, then a header and float32 values for each B-scan."""
    count, rows, columns = scans.shape
    head = b"HSF-OCT-103\0" + struct.pack(
        "<3I3d2I2dId4sQiI",
        *(columns, count, rows, 0.0116, step, 0.0039, 4, 5, 0.01, 0.01, 30, 0.5),
        *(eye, 129_000_000_000_000_000, pattern, 512),
    )
    head = head.ljust(140, b"\0") + PATIENT
    # HEYEX's own transform backwards: grey level to reflectivity.
    values = (np.exp(scans / np.float32(255) * 8.285 - 8.3) - 2.44e-4).astype("<f4")
    parts = [
        (b"HSF-BS-103\0\0" + struct.pack("<I4d2I", 512, 0, n, 1, n, 0, 256)).ljust(512, b"\0")
        + value.tobytes()
        for n, value in enumerate(values)
    ]
    return head.ljust(2048, b"\0") + bytes(20) + b"".join(parts)


def ufloat16(values: np.ndarray) -> np.ndarray:
    """Heidelberg's number of 16 bits: 6 of exponent, 10 of mantissa."""
    exponent = np.floor(np.log2(values))
    mantissa = np.round((values / 2**exponent - 1) * 1024)
    carry = mantissa == 1024
    exponent, mantissa = exponent + carry, np.where(carry, 0, mantissa)
    # Bits from the lowest: mantissa first, its most significant bit first.
    bits = [((mantissa.astype(int) >> (9 - n)) & 1) << n for n in range(10)]
    return (sum(bits) + ((exponent.astype(int) + 63) << 10)).astype("<u2")


def e2e(scans: np.ndarray = SCANS, eye: str = "L", pattern: int = 3) -> bytes:
    """A Heidelberg .e2e with one chunk of parts."""
    rows, columns = scans.shape[1:]
    side = bytes(14) + eye.encode() + bytes(12)
    parts = [(-1, 0, 11, side)]
    values = np.maximum(np.exp(scans / 255 * 8.285 - 8.3) - 2.44e-4, 2.0**-40)
    for n, value in enumerate(values):
        meta = struct.pack("<3I4fIffxxxx", 0, rows, columns, 0, n, 1, n, 0, 0, 0.0039)
        meta += struct.pack("<I2fI4I", 0, 0, 0, 0, columns, len(scans), n, pattern)
        parts.append((2 * n, 1, 10004, meta.ljust(428, b"\0")))
        size = rows * columns
        image = struct.pack("<5I", 2 * size, 35652097, size, rows, columns)
        parts.append((2 * n, 1, 2**30, image + ufloat16(value).tobytes()))
    first = b"CMDb".ljust(12, b"\0") + struct.pack("<I", 100) + bytes(20)
    folders, body = b"", b""
    at = 36 + 52 + 52 + 44 * len(parts)
    for slice_id, ind, kind, data in parts:
        ids = struct.pack("<4i2H2I", 1, 1, 1, slice_id, ind, 0, kind, 0)
        start = at + len(body)
        folders += struct.pack("<4I", 0, start, len(data), 0) + ids
        body += b"MDbData".ljust(12, b"\0") + struct.pack("<5I", 0, 0, start, len(data), 0) + ids
        body += data
    main = b"MDbMDir".ljust(12, b"\0") + struct.pack("<I", 100) + bytes(20)
    chunk = main[:12].replace(b"MDbMDir", b"MDbDir\0") + main[12:]
    return (
        first
        + main
        + struct.pack("<4I", 0, 88, 0, 0)
        + chunk
        + struct.pack("<4I", len(parts), 88, 0, 0)
        + folders
        + body
    )


def topcon(
    chunk: str = "@IMG_JPEG", eye: int = 0, mode: int = 2, spacing: bool = True
) -> Callable[[np.ndarray], bytes]:
    """A Topcon .fda or .fds: named chunks."""

    def build(scans: np.ndarray = SCANS) -> bytes:
        count, rows, columns = scans.shape
        chunks = {"@PATIENT_INFO_02": PATIENT.ljust(200), "@CAPTURE_INFO_02": bytes([eye, mode])}
        if spacing:
            chunks["@PARAM_SCAN_04"] = struct.pack("<3I5d2B", 0, 0, 0, 0.08, 0.9, 2.6, 0, 0, 0, 0)
        if chunk == "@IMG_JPEG":
            data = struct.pack("<B6I", mode, 0, 0, columns, rows, count, 0)
            for scan in scans:
                packed = io.BytesIO()
                Image.fromarray(scan).save(packed, "JPEG2000", irreversible=False)
                data += struct.pack("<I", packed.tell()) + packed.getvalue()
        else:
            values = scans.astype("<u2") * 257
            data = struct.pack("<B4IBI", mode, columns, rows, 16, count, 0, values.nbytes)
            data += values.tobytes()
        chunks[chunk] = data
        kind = b"FDS" if "SCAN" in chunk else b"FDA"
        return (
            (b"FOCT" + kind + struct.pack("<2I", 1, 0))
            + b"".join(
                bytes([len(name)]) + name.encode() + struct.pack("<I", len(part)) + part
                for name, part in chunks.items()
            )
            + b"\0"
        )

    return build


BUILDERS: dict[str, Callable[..., bytes]] = {
    "vol": vol,
    "e2e": e2e,
    "fda": topcon(),
    "fda moved": topcon("@IMG_MOT_COMP_03"),
    "fds": topcon("@IMG_SCAN_03"),
}
EXTRA = pytest.mark.skipif(
    not importlib.util.find_spec("eyepy"), reason="the extra oct is not installed"
)
ALL = [pytest.param(kind, marks=EXTRA if kind in ("vol", "e2e") else ()) for kind in BUILDERS]


def save(folder: Path, kind: str, raw: bytes | None = None) -> Path:
    path = folder / f"DOE_JOHN.{kind[:3]}"
    path.write_bytes(BUILDERS[kind]() if raw is None else raw)
    return path


@pytest.mark.parametrize("kind", ALL)
def test_b_scans_are_read_in_order(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path, kind)
    assert [source.format for source in find_sources(tmp_path)] == ["oct"]
    (scan,) = find_oct(path)
    volume = scan.read()
    expected = SCANS * (257.0 if kind in ("fda moved", "fds") else 1.0)
    # Heidelberg's 16 bits have 10 of mantissa, at the end of a logarithm.
    atol = 1 if kind in ("vol", "e2e") else 0
    np.testing.assert_allclose(volume.slices, expected, atol=atol)
    assert (volume.modality, volume.geometry.slice_axis) == ("oct", 0)
    assert volume.intensity == ("arbitrary" if kind in ("fda moved", "fds") else "grey8")
    for index in range(3):
        np.testing.assert_array_equal(scan.slice(index), volume.slice(index))


@pytest.mark.parametrize("kind", ALL)
def test_spacing_is_what_the_file_says(tmp_path: Path, kind: str) -> None:
    (scan,) = find_oct(save(tmp_path, kind))
    expected = {"vol": (0.24, 0.0039, 0.0116), "e2e": (1, 1, 1)}.get(kind, (0.3, 0.0026, 0.01))
    np.testing.assert_allclose(scan.geometry.spacing, expected)
    assert scan.geometry.spacing_known == (kind != "e2e")
    assert any("does not state the voxel size" in w for w in scan.warnings) == (kind == "e2e")
    assert scan.geometry.regular


def test_spacing_that_is_not_stated_is_not_known(tmp_path: Path) -> None:
    (scan,) = find_oct(save(tmp_path, "fda", topcon(spacing=False)()))
    assert not scan.geometry.spacing_known
    (single,) = find_oct(save(tmp_path, "fda", topcon()(SCANS[:1])))
    assert single.geometry.spacing == pytest.approx((0.9, 0.0026, 0.01))


@EXTRA
@pytest.mark.parametrize(
    ("eye", "label"), [(b"OD", "OCT, right eye"), (b"OS", "OCT, left eye"), (b"\0\0", "OCT")]
)
def test_the_eye_of_a_vol_is_in_the_label(tmp_path: Path, eye: bytes, label: str) -> None:
    (scan,) = find_oct(save(tmp_path, "vol", vol(eye=eye)))
    assert scan.series.label == label


@EXTRA
def test_the_eye_of_an_e2e_is_in_the_label(tmp_path: Path) -> None:
    for eye, label in (("R", "OCT, right eye"), ("L", "OCT, left eye")):
        (scan,) = find_oct(save(tmp_path, "e2e", e2e(eye=eye)))
        assert scan.series.label == label


@pytest.mark.parametrize(
    ("eye", "label"), [(0, "OCT, right eye"), (1, "OCT, left eye"), (9, "OCT")]
)
def test_the_eye_of_a_topcon_is_in_the_label(tmp_path: Path, eye: int, label: str) -> None:
    (scan,) = find_oct(save(tmp_path, "fda", topcon(eye=eye)()))
    assert scan.series.label == label


@pytest.mark.parametrize("kind", ALL)
def test_nothing_of_the_patient_is_told(tmp_path: Path, kind: str) -> None:
    (scan,) = find_oct(save(tmp_path, kind))
    said = scan.series.label + scan.series.description + " ".join(scan.warnings) + repr(scan)
    assert "john" not in said.lower()
    assert "1970" not in said


@pytest.mark.parametrize("kind", ALL)
def test_scans_that_are_not_side_by_side_are_not_regular(tmp_path: Path, kind: str) -> None:
    raw = {
        "vol": lambda: vol(pattern=5),
        "e2e": lambda: e2e(pattern=5),
        "fda": topcon(mode=3),
        "fda moved": topcon("@IMG_MOT_COMP_03", mode=4),
        "fds": topcon("@IMG_SCAN_03", mode=3),
    }[kind]()
    (scan,) = find_oct(save(tmp_path, kind, raw))
    assert not scan.geometry.regular
    assert any("not regular" in w for w in scan.warnings)


def test_depth_runs_down_and_columns_to_the_patients_left(tmp_path: Path) -> None:
    (scan,) = find_oct(save(tmp_path, "fda"))
    step = scan.geometry.affine[:3, :3]
    assert scan.geometry.orientation == "LPS"
    np.testing.assert_allclose(step, np.diag([-0.01, -0.0026, 0.3]))


@pytest.mark.parametrize("shape", [(128, 1024, 512), (200, 1024, 200)])
@pytest.mark.parametrize(
    ("side", "eye"), [("_OD_", ", right eye"), ("_OS_", ", left eye"), ("", "")]
)
def test_a_zeiss_cube_is_turned_upright(
    tmp_path: Path, shape: tuple[int, int, int], side: str, eye: str
) -> None:
    path = tmp_path / f"PDOE123_Macular Cube_1-31-1970{side}sn1_cube_z.img"
    with open(path, "wb") as file:
        file.truncate(int(np.prod(shape)))
        # The first stored voxel of B-scan 2: its deepest, at the patient's left.
        file.seek(2 * shape[1] * shape[2])
        file.write(b"\x07")
    (volume,) = read(path)
    assert volume.data.shape == shape
    assert np.argwhere(volume.slices).tolist() == [[2, 1023, shape[2] - 1]]
    assert volume.series.label == f"OCT{eye}"
    assert not volume.geometry.spacing_known


def test_other_img_files_are_no_cubes(tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(bytes(1000))
    with pytest.raises(InputError, match="is not an image"):
        read(path)
    with pytest.raises(InputError, match="1000 bytes are not those of a Zeiss Cirrus cube"):
        find_oct(path)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.2, 0.6, 0.97])
def test_a_file_cut_short_is_one_sentence(tmp_path: Path, kind: str, share: float) -> None:
    raw = BUILDERS[kind]()
    path = save(tmp_path, kind, raw[: int(share * len(raw))])
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.path == path
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ALL)
def test_a_lying_header_is_refused_before_memory_is_taken(tmp_path: Path, kind: str) -> None:
    raw = BUILDERS[kind]()
    sizes = {"vol": (12, "<3I", (8, 3, 7)), "fds": (0, "<4I", (8, 7, 16, 3))}
    sizes["fda moved"] = sizes["fds"]
    sizes["fda"] = (0, "<3I", (8, 7, 3))
    sizes["e2e"] = (0, "<3I", (56, 7, 8))
    _, layout, true = sizes[kind]
    count = len(true)
    lie = struct.pack(layout, *(2**31 - 1 if n != 16 else n for n in true))
    assert raw.count(struct.pack(f"<{count}I", *true)) >= 1
    path = save(tmp_path, kind, raw.replace(struct.pack(f"<{count}I", *true), lie))
    with pytest.raises(InputError):
        read(path)


@EXTRA
def test_an_e2e_that_leads_round_in_a_circle_ends(tmp_path: Path) -> None:
    raw = bytearray(e2e())
    last = 36 + 52 + 52 + 44 * 6
    raw[last + 4 : last + 12] = struct.pack("<2I", 20, 8)
    with pytest.raises(InputError, match="form a loop"):
        find_oct(save(tmp_path, "e2e", bytes(raw)))


@pytest.mark.parametrize("kind", ["vol", "e2e"])
def test_without_eyepy_the_error_says_how_to_get_it(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    path = save(tmp_path, kind)
    monkeypatch.setattr(oct.importlib, "import_module", missing)
    with pytest.raises(InputError, match=r'pip install "napari-spatial-ar\[oct\]"'):
        find_oct(path)
