"""What names of protocols, series and files say of how a scan was acquired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.acquisition import (
    Acquisition,
    acquisition_of_files,
    read_acquired,
    words_of,
)


@pytest.mark.parametrize(
    ("text", "sequence", "agent"),
    [
        ("sub-01_FLAIR.nii.gz", "FLAIR", None),
        ("sub-01_ses-02_acq-mprage_T1w.nii.gz", "T1", None),
        ("sub-01_ce-gadolinium_T1w.nii.gz", "T1", True),
        ("sub-01_T2w.nii.gz", "T2", None),
        ("sub-01_T2star.nii.gz", "T2*", None),
        ("sub-01_PDw.nii.gz", "PD", None),
        ("sub-01_task-rest_bold.nii.gz", "BOLD", None),
        ("sub-01_dwi.nii.gz", "DWI", None),
        ("sub-01_UNIT1.nii.gz", "T1", None),
        ("BraTS-GLI-00005-000-t1c.nii.gz", "T1", True),
        ("BraTS-GLI-00005-000-t1n.nii.gz", "T1", False),
        ("BraTS-GLI-00005-000-t2f.nii.gz", "FLAIR", None),
        ("BraTS-GLI-00005-000-t2w.nii.gz", "T2", None),
        ("BraTS20_Training_001_t1ce.nii", "T1", True),
        ("chris_t1.nii.gz", "T1", None),
        ("MR_Gd.nii.gz", "", True),
        ("t2_tirm_tra_dark-fluid_4mm", "FLAIR", None),
        ("AX T2 FLAIR FS", "FLAIR", None),
        ("sag 3D T2 SPACE DARK FLUID", "FLAIR", None),
        ("t1_mprage_sag_p2_iso", "T1", None),
        ("T1W/SE/1024", "T1", None),
        ("sagT1 / *tfl3d1_16ns", "T1", None),
        ("t2_tse_tra_fs", "T2", None),
        ("AX T2* GRE", "T2*", None),
        ("ep2d_diff_3scan_trace_p2 / *ep_b1000", "DWI", None),
        ("ep2d_diff_ADC", "", None),  # DWI or ADC: two things are none
        ("SWI_Images T2", "SWI", None),
        ("TOF_3D_multi-slab", "TOF", None),
        ("T2 STIR cor", "STIR", None),
        # A T1 FLAIR, or the FLAIR of the time point T1.
        ("Ax T1 FLAIR", "", None),
        ("pat07_T1_FLAIR.nii.gz", "", None),
        ("T1 and T2 registered", "", None),
        # Words of other things.
        ("Stirling_John.nii.gz", "", None),
        ("PD_patient_004.nii.gz", "", None),
        ("t1map_molli", "", None),
        ("T2_map.nii", "", None),
        ("AT1R_study_T12.nii", "", None),
        ("scan.nii.gz", "", None),
    ],
)
def test_names_say_the_sequence_or_nothing(text: str, sequence: str, agent: bool | None) -> None:
    found = words_of(text)
    assert (found.sequence, found.contrast_agent) == (sequence, agent)


@pytest.mark.parametrize(
    ("text", "modality", "agent"),
    [
        ("CT_AVM.nii.gz", "ct", None),
        ("head-CTA.nrrd", "ct", True),
        ("ncct_007.nii", "ct", False),
        ("sub-01_T1w.nii", "mri", None),
        ("brain MRI.nii", "mri", None),
        ("CT and MRI.nii", "", None),
        ("Mr_Smith.nii", "", None),
        ("doctor.nii", "", None),
    ],
)
def test_names_say_the_modality(text: str, modality: str, agent: bool | None) -> None:
    found = words_of(text)
    assert (found.modality, found.contrast_agent) == (modality, agent)


def test_the_folder_speaks_where_the_file_is_silent() -> None:
    def of(*names: str) -> Acquisition:
        return acquisition_of_files(tuple(Path("/data", name) for name in names))

    assert of("flair/doe.nii.gz") == Acquisition("FLAIR", None, "", "mri", True)
    assert of("flair/doe_T1w.nii.gz").sequence == "T1"
    assert of("T1w/doe_ce-gd.nii.gz") == Acquisition("T1", True, "", "mri", True)
    assert of("doe/1_T1.png", "doe/2_T1.png") == Acquisition()  # names of slices, not of scans
    assert of("t2/1.png", "t2/2.png").sequence == "T2"
    assert of("doe/1.nii") == Acquisition()
    assert acquisition_of_files(()) == Acquisition()


def test_what_a_person_says_is_read_or_refused() -> None:
    assert read_acquired("") == (None, Acquisition())
    assert read_acquired("Axial flair") == ("axial", Acquisition("FLAIR"))
    expected = Acquisition("T2*", False, "soft")
    assert read_acquired("coronal, t2*, no-contrast, soft") == ("coronal", expected)
    with pytest.raises(InputError, match=r"'FLIAR' is not a known term.*FLAIR, T1"):
        read_acquired("axial FLIAR")


def test_nothing_of_a_name_is_kept() -> None:
    kept: Any = vars(words_of("Doe^Jane 1950-01-01 t1 mprage gd"))
    assert kept == vars(Acquisition("T1", True, "", "mri"))
