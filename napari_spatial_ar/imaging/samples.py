"""The real scan that comes with the package."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.reading import read
from napari_spatial_ar.imaging.scan import Scan

__all__ = ["SAMPLE_NAME", "sample_path", "sample_volume"]

#: What the sample is called in the viewer.
SAMPLE_NAME = "FLAIR (TCGA-LGG)"


def sample_path() -> Path:
    """Path of the sample volume: FLAIR of a patient with a glioma, TCGA-LGG, CC BY 3.0.

    Raises
    ------
    InputError
        If this installation is incomplete.
    """
    path = Path(str(files("napari_spatial_ar"))) / "data" / "flair_tcga_lgg.nii.gz"
    if not path.is_file():
        raise InputError(
            "the sample scan is missing from this installation", fix="Install the package again"
        )
    return path


def sample_volume() -> Scan:
    """Read the sample."""
    volume = read(sample_path())[0]
    return replace(
        volume, modality="mri", series=replace(volume.series, label=SAMPLE_NAME), warnings=()
    )
