"""Models of one plane: fitted on slices cut from volumes, and scored back onto the scan's grid."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine
from typer.testing import CliRunner

import napari_spatial_ar as nsar
from napari_spatial_ar.cli import app
from napari_spatial_ar.datasets.folders import find_slices
from napari_spatial_ar.datasets.selection import Selection
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.windows import resolve
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.calibration.calibrate import recalibrate, slice_keys
from napari_spatial_ar.normative.fitting.outliers import find_outliers
from napari_spatial_ar.normative.model import load_model
from napari_spatial_ar.normative.model_file import read_header
from napari_spatial_ar.review.batch import score_scans
from napari_spatial_ar.steps import finish
from tests.normative.test_model import build

SHAPE = (34, 40, 30)  # R, A, S
OBLIQUE = nib.affines.from_matvec(
    np.array([[0.96, -0.20, 0.17], [0.21, 0.97, -0.09], [-0.15, 0.12, 0.98]]) * [1.0, 1.1, 1.3],
    [-31.0, 17.0, 5.0],
)
SPOT = (27, 9, 22)  # in the right, posterior, superior part


def phantom(seed: int = 0) -> np.ndarray:
    """(R, A, S) body with noise and a bright spot, no two of its sides alike."""
    rng = np.random.default_rng(seed)
    voxels = np.rint(rng.uniform(60, 120, SHAPE))
    r, a, s = SPOT
    voxels[r - 2 : r + 3, a - 2 : a + 3, s - 2 : s + 3] = 250
    return voxels.astype(np.int16)


def save(path: Path, codes: str, affine: np.ndarray = OBLIQUE, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(phantom(seed), affine)
    nib.save(image.as_reoriented(nib.orientations.axcodes2ornt(codes)), path)
    return path


def upright(canonical: np.ndarray, plane: str, n: int) -> np.ndarray:
    """Slice of (R, A, S) voxels the radiological way, by nibabel's axes alone."""
    return {
        "axial": lambda: canonical[::-1, ::-1, n].T,
        "coronal": lambda: canonical[::-1, n, ::-1].T,
        "sagittal": lambda: canonical[n, ::-1, ::-1].T,
    }[plane]()


@pytest.mark.parametrize(
    ("codes", "affine"),
    [("RAS", np.diag([1.0, 1.1, 1.3, 1.0])), ("LPS", OBLIQUE), ("SRP", OBLIQUE), ("PIL", OBLIQUE)],
)
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_scores_come_back_to_their_voxels(
    tmp_path: Path, tiny_backbone: Backbone, affine: np.ndarray, codes: str, plane: str
) -> None:
    scan = save(tmp_path / "scan.nii.gz", codes, affine)
    model = build(tiny_backbone, selection=Selection(plane))  # type: ignore[arg-type]
    (volume,) = nsar.read(scan)
    result = model.score_volume(volume)
    source = nib.load(scan)
    scored = nib.Nifti1Image(result.nll.transpose(2, 1, 0), source.affine)
    canonical = np.asarray(nib.as_closest_canonical(source).dataobj, np.float32)
    heat = np.asarray(nib.as_closest_canonical(scored).dataobj)
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    ends = resolve(model.header.preprocessing.window, volume)
    for n in (SPOT[axis], 28):
        own = model.score_slice(upright(canonical, plane, n), window=ends).nll
        np.testing.assert_allclose(upright(heat, plane, n), own, rtol=1e-5)


def test_score_takes_the_plane_of_the_model(
    tmp_path: Path, tiny_backbone: Backbone, tiny_weights: Path
) -> None:
    scan = save(tmp_path / "scan.nii.gz", "PIL")
    folder = build(tiny_backbone, selection=Selection("coronal")).save(tmp_path / "m").parent
    made = {}
    for name, plane in (("own", None), ("coronal", "coronal"), ("acquired", "as-acquired")):
        result = score_scans(
            [scan], folder, tmp_path / name, threshold=1.0, plane=plane, device="cpu"
        )  # type: ignore[arg-type]
        made[name] = nib.load(result["scans"][0]["files"]["nll"])
        np.testing.assert_allclose(made[name].affine, nib.load(scan).affine, atol=1e-4)
        assert made[name].shape == nib.load(scan).shape
    voxels = {name: np.asarray(image.dataobj) for name, image in made.items()}
    np.testing.assert_array_equal(voxels["own"], voxels["coronal"])
    assert not np.array_equal(voxels["own"], voxels["acquired"])
    model = load_model(folder, device="cpu")
    (volume,) = nsar.read(scan)
    np.testing.assert_allclose(
        voxels["own"], model.score_volume(volume).nll.transpose(2, 1, 0), rtol=1e-5
    )
    # The spot is where it is in the patient.
    place = np.argwhere(np.asarray(nib.load(scan).dataobj) == 250).mean(axis=0)
    there = apply_affine(made["own"].affine, place)
    np.testing.assert_allclose(there, apply_affine(OBLIQUE, SPOT), atol=1e-3)


def test_a_picture_is_no_scan_of_a_plane(
    tmp_path: Path, tiny_backbone: Backbone, tiny_weights: Path, normal_slices: Path
) -> None:
    folder = build(tiny_backbone, selection=Selection("coronal")).save(tmp_path / "m").parent
    picture = next(normal_slices.iterdir())
    with pytest.raises(InputError, match=r"coronal slices cannot be made.*plane: as acquired"):
        score_scans([picture], folder, tmp_path / "out", threshold=1.0, device="cpu")
    result = score_scans(
        [picture], folder, tmp_path / "out", threshold=1.0, plane="as-acquired", device="cpu"
    )
    assert len(result["scans"]) == 1


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    folder = tmp_path / "normal"
    for number, codes in enumerate(("RAS", "LPS", "SRP", "PIL", "ASL")):
        save(folder / f"p{number}" / "scan.nii.gz", codes, seed=number)
    return folder


def test_a_fit_learns_from_what_is_chosen_and_its_model_says_so(
    tmp_path: Path, patients: Path, tiny_weights: Path, tiny_name: str
) -> None:
    said = ["--backbone", tiny_name, "--size", "64", "--method", "memory-bank", "--device", "cpu"]
    chosen = ["--plane", "coronal", "--slices", "0.4:0.6", "--calibration-fraction", "0.2"]
    out = tmp_path / "m"
    result = CliRunner().invoke(app, ["fit", str(patients), "--out", str(out), *said, *chosen])
    assert result.exit_code == 0, result.output
    header, _ = read_header(out / "model.safetensors")
    assert header.selection == Selection("coronal", (0.4, 0.6))
    training, slices = header.training, 8  # middles 16.5 to 23.5 of 40
    assert (training["images"], training["subjects"]) == (3 * slices, 3)
    assert (training["valid_images"], training["calibration_images"]) == (slices, slices)
    keys = {part: set(found) for part, found in training["slice_keys"].items()}
    assert keys.keys() == {"train", "valid", "calibration"}
    assert len(set.union(*keys.values())) == 5 * slices
    assert header.calibration is not None
    assert (header.calibration.slices, header.calibration.patients) == (slices, 1)
    assert header.calibration.separate
    card = (out / "README.md").read_text()
    assert "coronal, from 40% to 60% of the stack" in card
    assert "| Calibrated on | 8 normal slices of 1 patient |" in card
    assert "not used in the fit" in card
    with pytest.raises(InputError, match=f"{3 * slices} of its {5 * slices} slices were used"):
        recalibrate(out, patients, out=tmp_path / "again", device="cpu")
    steps = find_outliers(load_model(out, device="cpu"), patients)
    assert finish(steps).scans == 5


def test_calibration_patients_change_neither_training_nor_the_epoch(
    tmp_path: Path, patients: Path, tiny_weights: Path, tiny_name: str
) -> None:
    settings = {
        "backbone": tiny_name,
        "size": 64,
        "method": "spatial-ar",
        "options": {"epochs": 2},
        "plane": "axial",
        "calibration_fraction": 0.2,
        "device": "cpu",
    }
    model = nsar.fit(patients, out=tmp_path / "a", **settings)
    (own,) = (
        p.parent
        for p in patients.rglob("*.nii.gz")
        if keys_of(p.parent) & set(keys(model, "calibration"))
    )
    before = {k: keys(model, k) for k in ("train", "valid")}
    voxels = phantom(99)
    scan = own / "scan.nii.gz"
    codes = "".join(nib.aff2axcodes(nib.load(scan).affine))
    image = nib.Nifti1Image(voxels, OBLIQUE)
    nib.save(image.as_reoriented(nib.orientations.axcodes2ornt(codes)), scan)
    again = nsar.fit(patients, out=tmp_path / "b", **settings)
    assert {k: keys(again, k) for k in before} == before
    assert keys(again, "calibration") != keys(model, "calibration")
    for name, tensor in model.detector.tensors().items():
        assert torch.equal(tensor, again.detector.tensors()[name])
    assert again.calibration.thresholds != model.calibration.thresholds


def keys(model: nsar.normative.model.NormativeModel, part: str) -> list[str]:
    return list(model.header.training["slice_keys"][part])


def keys_of(folder: Path) -> set[str]:
    return set(slice_keys(find_slices(folder, selection=Selection("axial")).train))
