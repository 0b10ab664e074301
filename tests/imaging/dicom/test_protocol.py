"""Weighting, contrast agent and kernel by the header, never by what a name says against it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from napari_spatial_ar.imaging.dicom.series import find_series

Write = Callable[..., list[Path]]


def times(technique: str, echo: float, repetition: float, inversion: float = 0) -> dict[str, Any]:
    tags = {"ScanningSequence": technique.split("+"), "EchoTime": echo}
    tags["RepetitionTime"] = repetition
    return {**tags, "InversionTime": inversion} if inversion else tags


@pytest.mark.parametrize(
    ("tags", "sequence"),
    [
        (times("SE+IR", 120, 9000, 2500), "FLAIR"),
        (times("SE+IR", 394, 6000, 2200), "FLAIR"),
        (times("IR", 387, 4800, 1650), "FLAIR"),
        (times("SE+IR", 60, 4500, 160), "STIR"),
        (times("GR+IR", 2.9, 2300, 900), "T1"),
        (times("SE+IR", 9, 2500, 860), "T1"),  # the T1 FLAIR of its maker
        (times("SE", 12, 550), "T1"),
        (times("GR", 2.5, 300), "T1"),
        (times("SE", 90, 4000), "T2"),
        (times("SE", 20, 3000), "PD"),
        (times("GR", 25, 700), "T2*"),
        ({**times("GR", 2.2, 4.5), "SequenceVariant": ["SS", "SK"]}, ""),
        ({**times("GR", 3.2, 8.9), "SequenceVariant": ["SS", "SP", "SK"]}, "T1"),
        (times("SE", 45, 1500), ""),
        (times("EP+SE", 90, 4000), ""),
        ({**times("EP+SE", 90, 4000), "DiffusionBValue": 1000.0}, "DWI"),
        ({**times("EP+SE", 90, 4000), "ImageType": ["DERIVED", "PRIMARY", "ADC"]}, "ADC"),
        ({"AcquisitionContrast": "FLUID_ATTENUATED"}, "FLAIR"),
        ({"AcquisitionContrast": "T2_STAR"}, "T2*"),
        ({}, ""),
        # Names say what times leave open, and more closely what they tell.
        ({"SeriesDescription": "Doe Jane AX FLAIR"}, "FLAIR"),
        ({"ProtocolName": "t1_mprage_sag"}, "T1"),
        ({"SequenceName": "*tfl3d1_16ns"}, "T1"),
        ({**times("SE", 120, 9000), "SeriesDescription": "T2 FLAIR"}, "FLAIR"),
        ({**times("GR", 20, 28), "SeriesDescription": "SWI"}, "SWI"),
        ({**times("GR", 3.5, 25), "SeriesDescription": "TOF 3D"}, "TOF"),
        ({**times("SE+IR", 81, 9000, 2500), "SeriesDescription": "t2_tirm_tra"}, "FLAIR"),
        ({**times("SE+IR", 9, 2500, 860), "SeriesDescription": "AX T1 FLAIR"}, "T1"),
        # Against each other: nothing is said.
        ({**times("SE", 12, 550), "SeriesDescription": "AX T2"}, ""),
        ({**times("GR+IR", 2.9, 2300, 900), "SeriesDescription": "FLAIR"}, ""),
        # What is no number is no time.
        ({"ScanningSequence": "SE", "EchoTime": None, "RepetitionTime": 500}, ""),
    ],
)
def test_weighting(
    write_series: Write, voxels: np.ndarray, tags: dict[str, Any], sequence: str
) -> None:
    (scan,) = find_series(write_series(voxels, Modality="MR", **tags))
    assert scan.series.acquisition.sequence == sequence
    assert not scan.series.acquisition.by_name
    assert "Doe" not in repr(scan.series.acquisition)


def items(**tags: Any) -> list[Dataset]:
    one = Dataset()
    for name, value in tags.items():
        setattr(one, name, value)
    return [one]


@pytest.mark.parametrize(
    ("groups", "sequence"),
    [
        ({"MRImageFrameTypeSequence": items(AcquisitionContrast="T1")}, "T1"),
        (
            {
                "MREchoSequence": items(EffectiveEchoTime=120.0),
                "MRTimingAndRelatedParametersSequence": items(RepetitionTime=9000.0),
                "MRModifierSequence": items(InversionTimes=[2500.0]),
            },
            "FLAIR",
        ),
        ({"MRDiffusionSequence": items(DiffusionBValue=800.0)}, "DWI"),
    ],
)
def test_enhanced_images_say_it_in_their_groups(
    multiframe: Callable[..., Dataset],
    voxels: np.ndarray,
    tmp_path: Path,
    groups: dict[str, Any],
    sequence: str,
) -> None:
    frames = [{"position": (0, 0, float(z))} for z in range(len(voxels))]
    dataset = multiframe(voxels, frames, Modality="MR")
    for name, value in groups.items():
        setattr(dataset.SharedFunctionalGroupsSequence[0], name, value)
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    (scan,) = find_series([tmp_path / "a.dcm"])
    assert scan.series.acquisition.sequence == sequence


@pytest.mark.parametrize(
    ("tags", "agent"),
    [
        ({}, None),
        ({"ContrastBolusAgent": ""}, False),
        ({"ContrastBolusAgent": "NONE"}, False),
        ({"ContrastBolusAgent": "Omnipaque 350, Doe"}, True),
        ({"SeriesDescription": "abdomen nativ"}, False),
        ({"SeriesDescription": "abdomen nativ", "ContrastBolusAgent": "Ultravist"}, True),
    ],
)
def test_contrast_agent(
    write_series: Write, voxels: np.ndarray, tags: dict[str, Any], agent: bool | None
) -> None:
    (scan,) = find_series(write_series(voxels, Modality="CT", **tags))
    assert scan.series.acquisition.contrast_agent is agent


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        *(("B30f", "soft"), ("B70s", "sharp"), ("Br40d", "soft"), ("Bl57", "sharp")),
        *((["I31f", "3"], "soft"), ("H47", ""), ("FC08", "soft"), ("FC51", "sharp")),
        *(("STANDARD", "soft"), ("BONEPLUS", "sharp"), ("LUNG", "sharp"), ("Dr Doe's", "")),
        *(("", ""), (None, "")),
    ],
)
def test_kernels_are_told_by_their_makers_names(
    write_series: Write, voxels: np.ndarray, kernel: Any, kind: str
) -> None:
    (scan,) = find_series(write_series(voxels, Modality="CT", ConvolutionKernel=kernel))
    assert scan.series.acquisition.kernel == kind
    assert scan.series.acquisition.sequence == ""


def test_others_than_mr_and_ct_say_nothing(write_series: Write, voxels: np.ndarray) -> None:
    (scan,) = find_series(write_series(voxels, Modality="US", SeriesDescription="T1"))
    assert scan.series.acquisition.sequence == ""
