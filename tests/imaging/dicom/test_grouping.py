"""Which images of a series form one volume: every sign, every maker, every order of numbers."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.series import find_series, group_series, read_dicom
from tests.scans import Image, volume_voxels

Write = Callable[..., list[Path]]
Number = Callable[[int, int], "int | None"]
Describe = Callable[[Image], None]
VOLUMES, PLACES = 3, 6
_MIXED = np.random.default_rng(11).permutation(4 * PLACES).reshape(4, PLACES) + 1

NUMBERS: dict[str, Number] = {
    "volume by volume": lambda volume, place: volume * PLACES + place + 1,
    "place by place": lambda volume, place: place * VOLUMES + volume + 1,
    "at random": lambda volume, place: int(_MIXED[volume, place]),
    "each volume from 1": lambda volume, place: place + 1,
    "none": lambda volume, place: None,
}


def contents(paths: list[Path]) -> list[list[tuple[int, int]]]:
    """(volume, place) of each slice of each volume that was read."""
    found = []
    for volume in read_dicom(paths):
        marks = volume.data[:, 0, 0].astype(int)
        found.append([(int(m) // 100, int(m) % 100) for m in marks])
    return found


def complete(volumes: int = VOLUMES, places: int = PLACES) -> list[list[tuple[int, int]]]:
    return [[(v, k) for k in range(places)] for v in range(volumes)]


def tagged(**tags: Callable[[int, int], Any]) -> Describe:
    def describe(image: Image) -> None:
        for keyword, value in tags.items():
            setattr(image.dataset, keyword, value(image.volume, image.place))

    return describe


def in_block(group: int, creator: str, element: int, vr: str) -> Callable[[Dataset, Any], None]:
    def put(dataset: Dataset, value: Any) -> None:
        dataset.private_block(group, creator, create=True).add_new(element, vr, value)

    return put


def csa(dataset: Dataset, b: int) -> None:
    """Siemens CSA header, second kind, with one tag."""
    text = str(b).encode() + b"\0"
    padded = text + b"\0" * (-len(text) % 4)
    tag = struct.pack("<64si4siii", b"B_value", 1, b"IS", 6, 1, 77)
    item = struct.pack("<4i", len(text), len(text), 77, len(text)) + padded
    raw = b"SV10\4\3\2\1" + struct.pack("<2I", 1, 77) + tag + item
    in_block(0x0029, "SIEMENS CSA HEADER", 0x10, "OB")(dataset, raw)


def standard(dataset: Dataset, b: int) -> None:
    dataset.DiffusionBValue = float(b)


def ge(dataset: Dataset, b: int) -> None:
    in_block(0x0043, "GEMS_PARM_01", 0x39, "IS")(dataset, [str(10**9 + b), "8", "0", "0"])


def ge_without_offset(dataset: Dataset, b: int) -> None:
    in_block(0x0043, "GEMS_PARM_01", 0x39, "IS")(dataset, [str(b), "0", "0", "0"])


def ge_silent_at_zero(dataset: Dataset, b: int) -> None:
    if b:
        dataset.DiffusionBValue = float(b)


def moved(dataset: Dataset, b: int) -> None:
    """Philips, its block not the first of its group."""
    dataset.add_new((0x2001, 0x0010), "LO", "SOMEONE ELSE")
    in_block(0x2001, "Philips Imaging DD 001", 0x03, "FL")(dataset, float(b))


def sequence_name(dataset: Dataset, b: int) -> None:
    dataset.SequenceName = f"*ep_b{b}t"


def comments(dataset: Dataset, b: int) -> None:
    dataset.Manufacturer = "CANON_MEC"
    dataset.ImageComments = f"b={b}(0.445,0.000,0.895)"


MAKERS: dict[str, Callable[[Dataset, int], None]] = {
    "standard": standard,
    "Siemens": lambda d, b: in_block(0x0019, "SIEMENS MR HEADER", 0x0C, "IS")(d, str(b)),
    "Siemens CSA": csa,
    "Siemens name": sequence_name,
    "GE": ge,
    "GE plain": ge_without_offset,
    "GE silent at 0": ge_silent_at_zero,
    "Philips": lambda d, b: in_block(0x2001, "Philips Imaging DD 001", 0x03, "FL")(d, float(b)),
    "Philips, moved": moved,
    "United Imaging": lambda d, b: in_block(0x0065, "Image Private Header", 0x09, "FD")(
        d, b * 0.93
    ),
    "Canon": comments,
}


@pytest.mark.parametrize(
    ("number", "implicit"),
    [("at random", False), ("at random", True), ("place by place", False), ("none", False)],
)
@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_b_values_are_never_mixed(
    write_volumes: Write, maker: Callable[[Dataset, int], None], number: str, implicit: bool
) -> None:
    paths = write_volumes(
        describe=lambda image: maker(image.dataset, (0, 500, 1000)[image.volume]),
        number=NUMBERS[number],
    )
    if implicit:
        for path in paths:
            dataset = pydicom.dcmread(path)
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
            dataset.save_as(path, implicit_vr=True, little_endian=True)
    assert sorted(contents(paths)) == complete()


def test_a_b_value_that_is_a_float_is_one(write_volumes: Write) -> None:
    noise = np.random.default_rng(0).uniform(-0.01, 0.01, (2, PLACES))

    def describe(image: Image) -> None:
        image.dataset.DiffusionBValue = 1000.0 * image.volume + noise[image.volume, image.place]

    paths = write_volumes(2, describe=describe, number=NUMBERS["at random"])
    assert sorted(contents(paths)) == complete(2)


def test_b_values_at_other_places_are_not_mixed(write_volumes: Write) -> None:
    """Two half stacks that would make an even one."""
    half = PLACES // 2
    without = [(v, k) for v in (0, 1) for k in range(PLACES) if (k < half) != (v == 0)]
    paths = write_volumes(
        2, describe=lambda image: standard(image.dataset, image.volume), without=without
    )
    assert sorted(map(len, contents(paths))) == [half, half]


DIRECTIONS: dict[str, Callable[[Dataset, np.ndarray], None]] = {
    "standard": lambda d, v: setattr(d, "DiffusionGradientOrientation", v.tolist()),
    "Siemens": lambda d, v: in_block(0x0019, "SIEMENS MR HEADER", 0x0E, "FD")(d, v.tolist()),
    "United Imaging": lambda d, v: in_block(0x0065, "Image Private Header", 0x37, "FD")(
        d, v.tolist()
    ),
    "GE": lambda d, v: [
        in_block(0x0019, "GEMS_ACQU_01", 0xBB + n, "DS")(d, str(v[n])) for n in range(3)
    ],
    "Philips": lambda d, v: [
        in_block(0x2005, "Philips MR Imaging DD 001", 0xB0 + n, "FL")(d, float(v[n]))
        for n in range(3)
    ],
}


@pytest.mark.parametrize("maker", DIRECTIONS.values(), ids=DIRECTIONS)
def test_gradient_directions_of_one_b_value(
    write_volumes: Write, maker: Callable[[Dataset, np.ndarray], None]
) -> None:
    paths = write_volumes(
        describe=lambda image: maker(image.dataset, np.eye(3)[image.volume]),
        number=NUMBERS["at random"],
        DiffusionBValue=1000.0,
    )
    assert sorted(contents(paths)) == complete()


SIGNS: dict[str, Describe] = {
    "echo number": tagged(EchoNumbers=lambda v, k: v + 1),
    "echo time": tagged(EchoTime=lambda v, k: 4.6 * (v + 1)),
    "inversion time": tagged(InversionTime=lambda v, k: 150 + 50 * v),
    "flip angle": tagged(FlipAngle=lambda v, k: 5 * (v + 1)),
    "repetition time": tagged(RepetitionTime=lambda v, k: 500 * (v + 1)),
    "slice thickness": tagged(SliceThickness=lambda v, k: (1.0, 3.0, 5.0)[v]),
    "tube voltage": tagged(KVP=lambda v, k: (80, 100, 140)[v]),
    "kernel": tagged(ConvolutionKernel=lambda v, k: ("B30f", "B60f", "B80f")[v]),
    "component": tagged(ImageType=lambda v, k: ["ORIGINAL", "PRIMARY", "MPR"[v]]),
    "component last": tagged(ImageType=lambda v, k: ["ORIGINAL", "PRIMARY", "DIXON", "WFI"[v]]),
    "complex part": tagged(
        ComplexImageComponent=lambda v, k: ("MAGNITUDE", "PHASE", "REAL")[v],
    ),
    "GE's part": lambda image: in_block(0x0043, "GEMS_PARM_01", 0x2F, "SS")(
        image.dataset, image.volume
    ),
    "Philips' part": lambda image: in_block(0x2005, "Philips MR Imaging DD 001", 0x11, "CS")(
        image.dataset, "MPR"[image.volume]
    ),
    "Dixon": tagged(
        ImageType=lambda v, k: ["DERIVED", "PRIMARY", "DIXON", ("WATER", "FAT", "IN_PHASE")[v]]
    ),
    "unknown image type": tagged(
        ImageType=lambda v, k: ["ORIGINAL", "PRIMARY", "M", ("NORM", "ND", "FIL")[v]]
    ),
    "labelling": lambda image: in_block(0x2005, "Philips MR Imaging DD 005", 0x29, "CS")(
        image.dataset, ("CONTROL", "LABEL", "M0")[image.volume]
    ),
    "coil": lambda image: in_block(0x0051, "SIEMENS MR HEADER", 0x0F, "LO")(
        image.dataset, f"H{image.volume}"
    ),
    "series number": tagged(SeriesNumber=lambda v, k: 3 + v),
    "temporal position": tagged(TemporalPositionIdentifier=lambda v, k: v + 1),
    "acquisition number": tagged(AcquisitionNumber=lambda v, k: 9 + v),
    "Philips' phase": lambda image: in_block(0x2001, "Philips Imaging DD 001", 0x08, "IS")(
        image.dataset, str(image.volume)
    ),
    "percentage of the heart's phase": tagged(
        NominalPercentageOfCardiacPhase=lambda v, k: 30.0 * v
    ),
    "trigger time": tagged(TriggerTime=lambda v, k: 40.0 * v),
    "trigger time, by slice": tagged(TriggerTime=lambda v, k: 40.0 * v + 0.7 * k),
    "PET": tagged(FrameReferenceTime=lambda v, k: 1000.0 * v),
    "acquisition time": tagged(AcquisitionTime=lambda v, k: f"1015{v:02}"),
    "content time": tagged(ContentTime=lambda v, k: f"1015{v:02}"),
    "acquisition date and time": tagged(
        AcquisitionDateTime=lambda v, k: f"202001011015{v:02}.500000"
    ),
    "past midnight": tagged(
        AcquisitionDate=lambda v, k: "20200101" if v < 2 else "20200102",
        AcquisitionTime=lambda v, k: ("235950", "235955", "000000")[v],
    ),
    "beside each other": lambda image: setattr(
        image.dataset, "ImagePositionPatient", [100.0 * image.volume, 0, 3.0 * image.place]
    ),
}


@pytest.mark.parametrize("number", ["at random", "each volume from 1"])
@pytest.mark.parametrize("sign", SIGNS.values(), ids=SIGNS)
def test_a_sign_tells_volumes_apart(write_volumes: Write, sign: Describe, number: str) -> None:
    paths = write_volumes(describe=sign, number=NUMBERS[number])
    assert sorted(contents(paths)) == complete()
    assert all(scan.geometry.regular for scan in find_series(paths))


CLOCKS: dict[str, Callable[[int, int], float]] = {
    "volume by volume": lambda v, k: 10.0 * v + k,
    "backwards": lambda v, k: 10.0 * v - k,
    "every second slice first": lambda v, k: 10.0 * v + (k // 2 if k % 2 == 0 else 3 + k // 2),
    "two slices at once": lambda v, k: 10.0 * v + k % 3,
    "place by place": lambda v, k: 10.0 * k + v,
    "overlapping": lambda v, k: 3.0 * v + k,
    "in packs": lambda v, k: 100.0 * (k // 3) + 10.0 * v + k % 3,
}


@pytest.mark.parametrize("keyword", ["AcquisitionTime", "ContentTime", "TriggerTime"])
@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_the_nth_image_at_each_place_in_time_is_of_the_nth_volume(
    write_volumes: Write, clock: Callable[[int, int], float], keyword: str
) -> None:
    def when(v: int, k: int) -> Any:
        seconds = clock(v, k) + 100
        return (
            seconds if keyword == "TriggerTime" else f"10{seconds // 60:02.0f}{seconds % 60:09.6f}"
        )

    paths = write_volumes(describe=tagged(**{keyword: when}), number=NUMBERS["at random"])
    if keyword == "ContentTime" and clock in (CLOCKS["overlapping"], CLOCKS["in packs"]):
        # When an image was made says less of what it shows.
        with pytest.raises(InputError, match="nothing distinguishes them"):
            read_dicom(paths)
        return
    assert contents(paths) == complete()


def test_times_in_whole_seconds_are_no_volumes(write_volumes: Write) -> None:
    """Some seconds hold the end of a volume and the beginning of the next."""

    def second(v: int, k: int) -> str:
        n = v * PLACES + k
        return f"1010{10 + (n >= 7) * (1 + (n - 7) // 6)}"

    paths = write_volumes(
        4,
        describe=tagged(AcquisitionTime=second),
        number=lambda v, k: v * PLACES + k + 1,
        without=[(3, k) for k in range(1, PLACES)],
    )
    assert contents(paths) == [*complete(3), [(3, 0)]]


def test_times_and_numbers_that_contradict_each_other_are_refused(write_volumes: Write) -> None:
    times = np.random.default_rng(3).permutation(VOLUMES * PLACES).reshape(VOLUMES, PLACES)
    paths = write_volumes(
        describe=tagged(AcquisitionTime=lambda v, k: f"1010{times[v, k] + 10}"),
        number=NUMBERS["volume by volume"],
    )
    with pytest.raises(InputError, match="nothing distinguishes them"):
        read_dicom(paths)


LAST_CUT = [(2, k) for k in range(4, PLACES)]
LAST_THINNED = [(2, k) for k in (1, 3, 4, 5)]
INCOMPLETE: dict[str, tuple[Describe, Number]] = {
    "acquisition number": (SIGNS["acquisition number"], NUMBERS["at random"]),
    "temporal position": (SIGNS["temporal position"], NUMBERS["at random"]),
    "gradient direction": (
        lambda image: DIRECTIONS["standard"](image.dataset, np.eye(3)[image.volume]),
        NUMBERS["at random"],
    ),
    "b-value": (lambda image: standard(image.dataset, image.volume), NUMBERS["at random"]),
    "time of volume": (SIGNS["acquisition time"], NUMBERS["at random"]),
    "time of slice": (
        tagged(AcquisitionTime=lambda v, k: f"1015{10 * v + k:02}.5"),
        NUMBERS["at random"],
    ),
    "content time of slice": (
        tagged(ContentTime=lambda v, k: f"1015{10 * v + k:02}.5"),
        NUMBERS["none"],
    ),
    "numbering": (lambda image: None, NUMBERS["volume by volume"]),
    "numbering, downwards": (lambda image: None, lambda v, k: PLACES * v - k + 99),
}


@pytest.mark.parametrize("without", [LAST_CUT, LAST_THINNED], ids=["cut", "thinned"])
@pytest.mark.parametrize(("sign", "number"), INCOMPLETE.values(), ids=INCOMPLETE)
def test_an_incomplete_last_volume_costs_only_itself(
    write_volumes: Write, sign: Describe, number: Number, without: list[tuple[int, int]]
) -> None:
    paths = write_volumes(describe=sign, number=number, without=without)
    left = [image for image in complete()[2] if image not in without]
    assert sorted(contents(paths)) == [*complete(2), left]
    warned = [
        f"It has {len(left)} of {PLACES} slices" in str(s.warnings) for s in find_series(paths)
    ]
    assert warned.count(True) == 1


@pytest.mark.parametrize("name", INCOMPLETE)
def test_a_file_lost_in_the_middle_costs_only_its_volume(write_volumes: Write, name: str) -> None:
    sign, number = INCOMPLETE[name]
    paths = write_volumes(4, describe=_four(name, sign), number=number, without=[(1, 2)])
    expected = complete(4)
    expected[1].remove((1, 2))
    assert sorted(contents(paths)) == expected


def _four(name: str, sign: Describe) -> Describe:
    if name == "gradient direction":
        return lambda image: DIRECTIONS["standard"](
            image.dataset, np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0.6, 0.8]])[image.volume]
        )
    return sign


@pytest.mark.parametrize("volumes", [2, 3, 5])
@pytest.mark.parametrize("order", ["volume by volume", "place by place", "every second first"])
def test_numbering_alone_counts_where_it_has_one_order(
    write_volumes: Write, order: str, volumes: int
) -> None:
    numbers: dict[str, Number] = {
        "volume by volume": lambda v, k: 100 * v + k + 1,
        "place by place": lambda v, k: 100 * k + v + 1,
        "every second first": lambda v, k: 100 * v + [0, 3, 1, 4, 2, 5][k] + 1,
    }
    paths = write_volumes(volumes, number=numbers[order])
    assert contents(paths) == complete(volumes)
    said = "Several images are at each position; they were set apart by their numbering alone."
    assert all(said in scan.warnings for scan in find_series(paths))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("volumes", [2, 3])
def test_numbering_in_no_order_is_refused(write_volumes: Write, volumes: int, seed: int) -> None:
    numbers = np.random.default_rng(seed).permutation(volumes * PLACES).reshape(volumes, PLACES)
    paths = write_volumes(volumes, number=lambda v, k: int(numbers[v, k]))
    with pytest.raises(InputError, match=r"nothing distinguishes them: they are not one volume"):
        read_dicom(paths)


@pytest.mark.parametrize("number", ["each volume from 1", "none"])
def test_without_any_sign_a_series_is_refused(write_volumes: Write, number: str) -> None:
    with pytest.raises(InputError, match="nothing distinguishes them"):
        read_dicom(write_volumes(number=NUMBERS[number]))


def test_signs_go_together(write_volumes: Write) -> None:
    """Two echoes, two b-values of three directions each, stopped in the last."""
    kinds = [(e, b, d) for e in (5.0, 9.0) for b in (500.0, 1000.0) for d in np.eye(3).tolist()]
    numbers = np.random.default_rng(2).permutation(len(kinds) * PLACES).reshape(-1, PLACES)

    def describe(image: Image) -> None:
        echo, b, direction = kinds[image.volume]
        image.dataset.EchoTime, image.dataset.DiffusionBValue = echo, b
        image.dataset.DiffusionGradientOrientation = direction

    paths = write_volumes(
        len(kinds),
        describe=describe,
        number=lambda v, k: int(numbers[v, k]),
        without=[(11, 5), (11, 4)],
    )
    assert sorted(contents(paths)) == [*complete(11), [(11, k) for k in range(4)]]


def test_directions_repeated_in_time(write_volumes: Write) -> None:
    def describe(image: Image) -> None:
        DIRECTIONS["Siemens"](image.dataset, np.eye(3)[image.volume % 2])
        image.dataset.AcquisitionTime = f"10{image.volume:02}{image.place:02}"

    paths = write_volumes(6, describe=describe, number=lambda v, k: 1)
    assert sorted(contents(paths)) == complete(6)


def test_dimension_index_values_tell_frames_apart(
    multiframe: Callable[..., Dataset], tmp_path: Path
) -> None:
    """As of Canon: TemporalPositionIndex is 1 everywhere, the dimension index has the time."""
    order = np.random.default_rng(4).permutation(VOLUMES * PLACES)
    keys = [(n // PLACES, n % PLACES) for n in order]
    frames = [{"position": (0, 0, 3.0 * k), "TemporalPositionIndex": 1} for _, k in keys]
    voxels = np.array([volume_voxels(VOLUMES, PLACES)[v, k] for v, k in keys])
    dataset = multiframe(voxels, frames)
    for groups, (v, k) in zip(dataset.PerFrameFunctionalGroupsSequence, keys, strict=True):
        groups.FrameContentSequence[0].DimensionIndexValues = [1, int(k) + 1, int(v) + 1]
    pydicom.dcmwrite(tmp_path / "a", dataset, enforce_file_format=True)
    assert contents([tmp_path / "a"]) == complete()


PASSES: dict[str, tuple[float, Describe, Number]] = {
    "between, acquisition number": (1.5, SIGNS["acquisition number"], NUMBERS["none"]),
    "between, numbering": (1.5, lambda image: None, NUMBERS["volume by volume"]),
    "between, time": (
        1.5,
        tagged(AcquisitionTime=lambda v, k: f"10{v:02}{k:02}"),
        NUMBERS["at random"],
    ),
    "same places, acquisition number": (0.0, SIGNS["acquisition number"], NUMBERS["none"]),
    "same places, numbering": (0.0, lambda image: None, NUMBERS["volume by volume"]),
    "between, time of pass": (1.5, SIGNS["acquisition time"], NUMBERS["at random"]),
    "between, temporal position": (1.5, SIGNS["temporal position"], NUMBERS["at random"]),
    "a third off, acquisition number": (1.0, SIGNS["acquisition number"], NUMBERS["none"]),
}


@pytest.mark.parametrize(("offset", "sign", "number"), PASSES.values(), ids=PASSES)
def test_overlapping_passes_are_set_apart(
    write_volumes: Write, offset: float, sign: Describe, number: Number
) -> None:
    paths = write_volumes(
        2,
        describe=sign,
        number=number,
        position=lambda v, k: (-10.0, -20.0, 30.0 + 3.0 * k + v * (9.0 + offset)),
    )
    assert sorted(contents(paths)) == complete(2)
    assert all(scan.geometry.regular for scan in find_series(paths))


def test_passes_that_nothing_tells_apart_are_not_measured(write_volumes: Write) -> None:
    paths = write_volumes(2, position=lambda v, k: (0.0, 0.0, 3.0 * k + v * 10.5))
    (scan,) = find_series(paths)
    assert not scan.geometry.regular
    assert "1.50 mm" in scan.warnings[0]
    assert "runs of slices may overlap" in scan.warnings[0]


def test_a_time_that_passes_within_a_stack_makes_no_runs(write_volumes: Write) -> None:
    paths = write_volumes(
        1,
        describe=tagged(AcquisitionTime=lambda v, k: f"10101{k // 3}"),
        position=lambda v, k: (0.0, 0.0, 3.0 * k + (k > 2)),
    )
    (scan,) = find_series(paths)
    assert "4.00 mm between slices 3 and 4" in scan.warnings[0]


def test_three_passes_of_other_lengths(write_volumes: Write) -> None:
    lost = [(0, 5), (2, 4), (2, 5)]
    paths = write_volumes(
        describe=SIGNS["acquisition number"],
        without=lost,
        position=lambda v, k: (0.0, 0.0, 3.0 * k + v * 10.0),
    )
    expected = [[(v, k) for k in range(PLACES) if (v, k) not in lost] for v in range(VOLUMES)]
    assert sorted(contents(paths)) == expected


def test_slices_that_become_thicker_are_two_volumes(write_volumes: Write) -> None:
    """As of a head's base and vault."""
    paths = write_volumes(
        2,
        describe=tagged(SliceThickness=lambda v, k: (4.0, 7.0)[v]),
        position=lambda v, k: (0.0, 0.0, (4.0 * k, 21.0 + 7.0 * k)[v]),
    )
    assert sorted(contents(paths)) == complete(2)
    assert sorted(s.geometry.spacing[0] for s in find_series(paths)) == [4, 7]


def test_a_scan_that_counts_each_rotation_is_one_volume(write_volumes: Write) -> None:
    """Step and shoot: a few slices an acquisition. One slice is missing."""
    count = tagged(AcquisitionNumber=lambda v, k: k // 4)
    assert contents(write_volumes(1, 16, describe=count)) == complete(1, 16)
    (scan,) = find_series(write_volumes(1, 16, describe=count, without=[(0, 7)], folder="b"))
    assert "1 slice seems to be missing" in scan.warnings[0]


@pytest.mark.parametrize(
    ("spacing", "jitter"), [(3.0, 1e-3), (3.0, 0.05), (6.5, 0.1), (0.6, 0.01), (1e-3, 1e-6)]
)
def test_one_place_is_relative_to_the_spacing(
    write_volumes: Write, spacing: float, jitter: float
) -> None:
    off = np.random.default_rng(1).uniform(-jitter, jitter, (VOLUMES, PLACES))
    paths = write_volumes(
        describe=SIGNS["acquisition time"],
        position=lambda v, k: (0.0, 0.0, float(spacing * k + off[v, k])),
        SpacingBetweenSlices=spacing,
    )
    assert contents(paths) == complete()


@pytest.mark.parametrize("spacing", [6.5, 3.3, 0.75])
def test_positions_rounded_by_the_writer_are_regular(write_volumes: Write, spacing: float) -> None:
    orientation = np.array([0.95, 0.02, -0.3117, 0.05, 0.98, 0.1932])
    row = orientation[:3] / np.linalg.norm(orientation[:3])
    column = np.cross(np.cross(row, orientation[3:]), row)
    column /= np.linalg.norm(column)
    normal = np.cross(row, column)

    def turn(image: Image) -> None:
        image.dataset.ImageOrientationPatient = [*row.tolist(), *column.tolist()]

    paths = write_volumes(
        1,
        22,
        describe=turn,
        position=lambda v, k: tuple(np.round([-81.3, -99.9, 12.7] + spacing * k * normal, 1)),
    )
    (scan,) = find_series(paths)
    assert scan.geometry.regular, scan.warnings
    assert scan.geometry.spacing[0] == pytest.approx(spacing, rel=2e-2)


@pytest.mark.parametrize("words", [("SPI", "SEQ"), ("A", "B")])
def test_an_image_type_of_the_makers_own_splits_no_volume(
    write_volumes: Write, words: tuple[str, str]
) -> None:
    kind = tagged(ImageType=lambda v, k: ["ORIGINAL", "PRIMARY", "AXIAL", words[k > 3]])
    (scan,) = find_series(write_volumes(1, describe=kind))
    assert scan.geometry.shape[0] == PLACES
    assert scan.warnings == ()


def zoomed(image: Image) -> None:
    if image.place > 2:
        image.dataset.PixelSpacing = [0.75, 0.25]


def test_pixel_spacing_belongs_to_a_volume(write_volumes: Write) -> None:
    lower, upper = find_series(write_volumes(1, describe=zoomed))
    assert {lower.geometry.spacing, upper.geometry.spacing} == {(3, 1.5, 0.5), (3, 0.75, 0.25)}
    assert "set apart by pixel spacing" in lower.warnings[-1]
    slightly = tagged(PixelSpacing=lambda v, k: [1.5 + 1e-5 * k, 0.5])
    (scan,) = find_series(write_volumes(1, describe=slightly, folder="b"))
    assert scan.geometry.shape[0] == PLACES


EMPTY_UID: dict[str, dict[str, tuple[Any, Any]]] = {
    "number": {"SeriesNumber": (1, 2)},
    "description": {"SeriesDescription": ("T1", "T2")},
    "time": {"SeriesTime": ("101010", "101211")},
    "study": {"StudyInstanceUID": ("1.2", "1.3")},
    "patient": {"PatientID": ("A", "B")},
    "modality": {"Modality": ("MR", "PT")},
}


@pytest.mark.parametrize("tags", EMPTY_UID.values(), ids=EMPTY_UID)
@pytest.mark.parametrize("uid", ["", None], ids=["empty", "absent"])
def test_series_whose_uid_was_emptied(
    write_volumes: Write, tags: dict[str, tuple[Any, Any]], uid: str | None
) -> None:
    def describe(image: Image) -> None:
        for keyword, values in tags.items():
            setattr(image.dataset, keyword, values[image.volume])
        if uid is None:
            del image.dataset.SeriesInstanceUID

    paths = write_volumes(2, describe=describe, SeriesInstanceUID="", number=lambda v, k: k + 1)
    assert len(group_series(paths)) == 2
    assert sorted(contents(paths)) == complete(2)


@pytest.mark.parametrize("lost", ["StudyInstanceUID", "SeriesNumber"])
def test_series_without_a_uid_and_more_are_one_a_folder(write_volumes: Write, lost: str) -> None:
    empty: dict[str, Any] = {lost: None, "SeriesInstanceUID": ""}
    paths = write_volumes(1, folder="a", **empty) + write_volumes(1, folder="b", **empty)
    assert contents(paths) == complete(1) * 2


def test_a_series_without_a_uid_may_lie_in_several_folders(write_volumes: Write) -> None:
    halves = [[(0, k) for k in range(PLACES) if (k < 3) == first] for first in (True, False)]
    paths = [
        path
        for n, half in enumerate(halves)
        for path in write_volumes(1, SeriesInstanceUID="", without=half, folder=str(n))
    ]
    assert contents(paths) == complete(1)


@pytest.mark.parametrize("keyword", ["PatientID", "StudyInstanceUID"])
def test_one_uid_given_to_two_patients_is_two_series(write_volumes: Write, keyword: str) -> None:
    paths = write_volumes(2, describe=tagged(**{keyword: lambda v, k: f"1.{v}"}))
    assert len(group_series(paths)) == 2
    assert sorted(contents(paths)) == complete(2)
