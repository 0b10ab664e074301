"""What of a scan does not fit a model, by what headers say and before anything is scored."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import napari_spatial_ar as nsar
from napari_spatial_ar.datasets.folders import find_slices
from napari_spatial_ar.datasets.selection import Selection
from napari_spatial_ar.imaging.acquisition import Acquisition
from napari_spatial_ar.imaging.geometry import Geometry, Plane
from napari_spatial_ar.imaging.json_text import from_plain
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.normative.calibration.acquired import Acquired, acquired_of, header_shift
from napari_spatial_ar.normative.calibration.appearance import domain_shift
from napari_spatial_ar.normative.calibration.calibrate import recalibrate
from napari_spatial_ar.normative.calibration.domain_shift import DomainShift
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.review.domain_shift import shift_headline

AXIAL_FLAIR = Acquired(plane={"axial": 9}, sequence={"FLAIR": 9, "unknown": 1})
# Axes (z, y, x) of the array to RAS: slices along the first axis of each plane.
AFFINES: dict[str, Any] = {
    "axial": np.diag([-1.0, -1.0, 4.0, 1.0]),
    "sagittal": np.array([[0, 0, 4.0, 0], [-1.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1]]),
}


class Header:
    """What is asked of a `ModelHeader`."""

    scoring = Scoring()

    def __init__(self, acquired: Acquired | None, plane: str = "as-acquired", kind: str = "mri"):
        self.acquired, self.modality = acquired, kind
        self.selection = Selection(plane)  # type: ignore[arg-type]


def scan(sequence: str = "", plane: str = "axial", modality: str = "mri", **said: Any) -> Scan:
    data = np.random.default_rng(0).random((6, 20, 20), np.float32)
    acquired = Acquisition(sequence, **said)  # type: ignore[arg-type]
    series = Series("x", acquired=acquired)
    return Scan(data, Geometry(data.shape, AFFINES[plane]), modality, series)  # type: ignore[arg-type]


def named(modality: str, sequence: str = "") -> Scan:
    """Scan of a format without a place for it, of whose kind only the file's name speaks."""
    said = Acquisition(sequence, modality=modality, by_name=True)  # type: ignore[arg-type]
    return replace(scan(modality="unknown"), series=Series("x", acquired=said))


def shift_of(header: Header, volume: Scan) -> DomainShift:
    return header_shift(header, volume)  # type: ignore[arg-type]


def test_a_sagittal_t1_does_not_fit_an_axial_flair_model() -> None:
    found = shift_of(Header(AXIAL_FLAIR), scan("T1", "sagittal"))
    assert found.reasons == (
        "it is T1, the model was trained on FLAIR",
        "its slices are sagittal, the model was trained on axial ones",
    )
    assert shift_headline(found, "") == (
        "Outside the training domain: T1 instead of FLAIR, sagittal instead of axial slices."
    )
    # Cut along the model's plane, only the sequence is left.
    cut = scan("T1", "sagittal").along("axial")
    assert shift_of(Header(AXIAL_FLAIR), cut).topics == ("T1 instead of FLAIR",)


@pytest.mark.parametrize(
    ("header", "volume"),
    [
        (Header(AXIAL_FLAIR), scan("FLAIR")),
        (Header(AXIAL_FLAIR), scan("")),  # nothing is said of it
        (Header(AXIAL_FLAIR), scan("FLAIR", contrast_agent=True)),  # nothing of the model's
        (Header(None), scan("T1", "sagittal")),
        (Header(Acquired(sequence={"T1": 4, "unknown": 5})), scan("FLAIR")),  # most say nothing
        (Header(Acquired(sequence={"T1": 4, "FLAIR": 5})), scan("FLAIR")),
        (Header(None, "sagittal"), scan("T1", "sagittal")),
        (Header(AXIAL_FLAIR), scan("FLAIR", modality="unknown")),
    ],
)
def test_what_fits_or_is_not_known_gives_no_reason(header: Header, volume: Scan) -> None:
    assert shift_of(header, volume) == DomainShift()


def test_pictures_have_no_plane() -> None:
    flat = replace(scan("FLAIR"), geometry=Geometry.without_spacing((6, 20, 20)))
    assert shift_of(Header(replace(AXIAL_FLAIR, plane={"sagittal": 3})), flat) == DomainShift()


@pytest.mark.parametrize(
    ("header", "volume", "topic"),
    [
        (Header(None, "coronal"), scan(), "axial instead of coronal slices"),
        # The plane that the model was made for counts, not that of the files.
        (Header(AXIAL_FLAIR, "sagittal"), scan("FLAIR"), "axial instead of sagittal slices"),
        (Header(AXIAL_FLAIR), scan(modality="ct"), "CT instead of MRI"),
        (Header(AXIAL_FLAIR), scan("T1", modality="oct"), "OCT instead of MRI"),
        (Header(AXIAL_FLAIR), named("ct"), "CT instead of MRI"),
        # One in twenty is chance.
        (Header(Acquired(sequence={"T1": 1, "FLAIR": 20})), scan("T1"), "T1 instead of FLAIR"),
        (
            Header(Acquired(sequence={"T2": 5, "FLAIR": 6, "PD": 3})),
            scan("T1"),
            "T1 instead of FLAIR, T2 or PD",
        ),
        (
            Header(Acquired(contrast_agent={"no": 3}), kind="ct"),
            scan(modality="ct", contrast_agent=True),
            "with contrast agent",
        ),
        (
            Header(Acquired(contrast_agent={"yes": 3}), kind="ct"),
            scan(modality="ct", contrast_agent=False),
            "without contrast agent",
        ),
        (
            Header(Acquired(kernel={"soft": 3}), kind="ct"),
            scan(modality="ct", kernel="sharp"),
            "sharp instead of soft kernel",
        ),
    ],
)
def test_what_does_not_fit_is_one_topic(header: Header, volume: Scan, topic: str) -> None:
    assert shift_of(header, volume).topics == (topic,)


def test_what_only_a_name_says_is_said_so() -> None:
    (reason,) = shift_of(Header(AXIAL_FLAIR), named("mri", "T1")).reasons
    assert reason == "according to its name, it is T1, the model was trained on FLAIR"


def test_scans_are_counted_and_come_back() -> None:
    def said(plane: Plane | None, *values: Any) -> tuple[Plane | None, Acquisition]:
        return plane, Acquisition(*values)

    scans = [said("axial", "FLAIR"), said("axial", "FLAIR", True), said(None), said("axial", "T1")]
    found = Acquired.of(scans)
    assert found is not None
    assert found.plane == {"axial": 3, "unknown": 1}
    assert found.sequence == {"FLAIR": 2, "T1": 1, "unknown": 1}
    assert found.contrast_agent == {"unknown": 3, "yes": 1}
    assert found.usual("contrast_agent") == ()
    assert from_plain({**found.to_dict(), "of a later version": {}}, Acquired) == found
    stated = Acquired.of(scans, "coronal", Acquisition("T2"))
    assert stated is not None
    assert stated.plane == {"axial": 3, "coronal": 1}
    assert stated.sequence == {"FLAIR": 2, "T1": 1, "T2": 1}
    assert Acquired.of([said(None)] * 3) is None


@pytest.fixture
def flairs(tmp_path: Path) -> Path:
    """Three patients' volumes, as files of which the names say the sequence."""
    rows, columns = np.mgrid[:40, :40]
    disc = ((rows - 20) ** 2 + (columns - 20) ** 2 < 150).astype(np.float32)
    folder = tmp_path / "normals"
    for number in range(3):
        noise = np.random.default_rng(number).random((40, 40, 4), np.float32)
        data = disc[..., None] * (0.5 + 0.2 * noise)
        path = folder / f"p{number}" / "x_FLAIR.nii.gz"
        path.parent.mkdir(parents=True)
        nib.Nifti1Image(data, np.diag([-5.0, -5.0, 30.0, 1.0])).to_filename(path)
    return folder


def test_a_fit_keeps_what_headers_and_names_say(
    flairs: Path, tmp_path: Path, tiny_backbone: Any, tiny_weights: Path
) -> None:
    options: dict[str, Any] = {"method": "patch-gaussian", "size": 64, "device": "cpu"}
    model = nsar.fit(flairs, out=tmp_path / "m", backbone=tiny_backbone, **options)
    saved = nsar.load_model(tmp_path / "m", device="cpu")
    assert saved.header.acquired == Acquired(
        {"axial": 2}, {"FLAIR": 2}, {"unknown": 2}, {"unknown": 2}
    )
    assert saved.header.format_version == 1
    saved.backbone = tiny_backbone
    other = tmp_path / "other_T1w.nii.gz"
    shutil.copy(flairs / "p0" / "x_FLAIR.nii.gz", other)
    (volume,) = nsar.read(other)
    assert domain_shift(saved, volume).reasons[0].startswith("according to its name, it is T1")
    # Without it, as in older files, calibration fills it in; what is known stays.
    model.header = replace(model.header, acquired=None, training={})
    model.save(tmp_path / "old")
    settings: dict[str, Any] = {"device": "cpu", "looks_only": True, "acquired": "coronal T2"}
    again = recalibrate(tmp_path / "old", flairs, **settings)
    assert again.header.acquired is not None
    assert again.header.acquired.plane == {"axial": 3}
    assert again.header.acquired.sequence == {"FLAIR": 3}
    again = recalibrate(again.folder, flairs / "p0", **settings)
    assert again.header.acquired.sequence == {"FLAIR": 3}


def test_pictures_are_what_a_person_says(normal_slices: Path) -> None:
    refs = find_slices(normal_slices, modality="mri").train
    assert acquired_of(refs) is None
    found = acquired_of(refs, "axial", Acquisition("FLAIR"))
    assert found is not None
    assert (found.plane, found.sequence) == ({"axial": 4}, {"FLAIR": 4})
