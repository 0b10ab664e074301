"""Left is left: one asymmetric phantom, written by other libraries in each format.

The phantom is a function of the patient's coordinates, so each file holds it in its own order of
axes; a bright ball lies at the patient's left, in front and above.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from pydicom.dataset import Dataset

from napari_spatial_ar.imaging.nifti import write_nifti
from napari_spatial_ar.imaging.reading import read
from napari_spatial_ar.imaging.scan import Scan

#: RAS millimetres of the ball's centre.
BALL = np.array([-14.0, 11.0, 9.0])
SPACING = (2.0, 1.5, 3.0)
SHAPE = (30, 34, 16)
ORDERS = [
    "".join(word)
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for word in itertools.product(*axes)
]
CODES = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}
TURN = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, -0.15, 0.1))


def grid(order: str, turn: npt.NDArray[np.float64] | None = None) -> npt.NDArray[np.float64]:
    """Affine (i, j, k) to RAS mm of a grid centred on the patient, its axes along ``order``."""
    directions = np.zeros((3, 3))
    for voxel_axis, letter in enumerate(order):
        world_axis, sign = CODES[letter]
        directions[world_axis, voxel_axis] = sign * SPACING[voxel_axis]
    affine = np.eye(4)
    affine[:3, :3] = directions
    affine[:3, 3] = -directions @ ((np.array(SHAPE) - 1) / 2)
    return affine if turn is None else turn @ affine


def places(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """RAS mm of each voxel, (i, j, k, 3)."""
    return nib.affines.apply_affine(affine, np.stack(np.indices(SHAPE), axis=-1))


def phantom(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.int16]:
    """Grey body with the bright ball in it, (i, j, k)."""
    at = places(affine)
    body = (np.abs(at) < [22, 20, 18]).all(axis=-1)
    ball = np.linalg.norm(at - BALL, axis=-1) < 5
    return np.where(ball, 1000, np.where(body, 100, 0)).astype(np.int16)


def centre(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    return np.argwhere(inside).mean(axis=0)


def save_nifti(folder: Path, affine: npt.NDArray[np.float64], _: Callable[..., Dataset]) -> Path:
    nib.save(nib.Nifti1Image(phantom(affine), affine), folder / "a.nii.gz")
    return folder / "a.nii.gz"


def save_nrrd(folder: Path, affine: npt.NDArray[np.float64], _: Callable[..., Dataset]) -> Path:
    nrrd = pytest.importorskip("nrrd")
    pytest.importorskip("SimpleITK")
    header = {
        "space": "right-anterior-superior",
        "space directions": affine[:3, :3].T,
        "space origin": affine[:3, 3],
        "encoding": "raw",
    }
    nrrd.write(str(folder / "a.nrrd"), phantom(affine), header, index_order="F")
    return folder / "a.nrrd"


def save_mha(folder: Path, affine: npt.NDArray[np.float64], _: Callable[..., Dataset]) -> Path:
    pytest.importorskip("SimpleITK")
    lps = np.diag([-1, -1, 1, 1]) @ affine
    directions = lps[:3, :3] / SPACING
    numbers = {
        "TransformMatrix": directions.T.ravel(),
        "Offset": lps[:3, 3],
        "ElementSpacing": SPACING,
        "DimSize": SHAPE,
    }
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True"]
    lines += [f"{key} = {' '.join(f'{v:.12g}' for v in value)}" for key, value in numbers.items()]
    lines += ["ElementType = MET_SHORT", "ElementDataFile = LOCAL", ""]
    voxels = phantom(affine).tobytes(order="F")
    (folder / "a.mha").write_bytes("\n".join(lines).encode() + voxels)
    return folder / "a.mha"


def dicom_geometry(affine: npt.NDArray[np.float64], k: int) -> dict[str, list[float]]:
    """Image plane attributes of slice k (PS3.3 C.7.6.2): LPS mm, columns first."""
    lps = np.diag([-1, -1, 1, 1]) @ affine
    return {
        "ImageOrientationPatient": [*(lps[:3, 0] / SPACING[0]), *(lps[:3, 1] / SPACING[1])],
        "ImagePositionPatient": list(lps[:3, 2] * k + lps[:3, 3]),
    }


def save_series(
    folder: Path, affine: npt.NDArray[np.float64], build: Callable[..., Dataset]
) -> Path:
    voxels = phantom(affine)
    for k in range(SHAPE[2]):
        # Named and numbered against their order: only positions tell.
        build(
            voxels[:, :, k].T.copy(),
            **{
                key: [round(v, 9) for v in value]
                for key, value in dicom_geometry(affine, k).items()
            },
            PixelSpacing=[SPACING[1], SPACING[0]],
            SliceThickness=SPACING[2],
            InstanceNumber=(7 * k) % SHAPE[2],
        ).save_as(folder / f"{SHAPE[2] - k:03}", enforce_file_format=True)
    return folder


def save_enhanced(
    folder: Path, affine: npt.NDArray[np.float64], build: Callable[..., Dataset]
) -> Path:
    voxels = phantom(affine)
    # Frames in an order of their own.
    order = [(5 * k) % SHAPE[2] for k in range(SHAPE[2])]
    frames = [[], []]
    for k in order:
        geometry = dicom_geometry(affine, k)
        item, position, orientation = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [round(v, 9) for v in geometry["ImagePositionPatient"]]
        orientation.ImageOrientationPatient = [
            round(v, 9) for v in geometry["ImageOrientationPatient"]
        ]
        item.PlanePositionSequence = [position]
        item.PlaneOrientationSequence = [orientation]
        frames[0].append(item)
        frames[1].append(voxels[:, :, k].T)
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = [SPACING[1], SPACING[0]]
    measures.SliceThickness = SPACING[2]
    shared.PixelMeasuresSequence = [measures]
    build(
        np.stack(frames[1]),
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames[0],
    ).save_as(folder / "a", enforce_file_format=True)
    return folder / "a"


# DICOM counts slices along the normal of their rows and columns: right-handed in LPS.
RIGHT_HANDED = [o for o in ORDERS if np.linalg.det(np.diag([-1, -1, 1]) @ grid(o)[:3, :3]) > 0]
CASES = [
    *[pytest.param(save_nifti, o, None, id=f"nifti-{o}") for o in ORDERS],
    *[pytest.param(save_nrrd, o, None, id=f"nrrd-{o}") for o in ORDERS],
    *[pytest.param(save_mha, o, None, id=f"mha-{o}") for o in ORDERS],
    *[pytest.param(save_series, o, None, id=f"dicom-{o}") for o in RIGHT_HANDED],
    *[pytest.param(save_enhanced, o, None, id=f"enhanced-{o}") for o in RIGHT_HANDED],
    *[
        pytest.param(save, "LPS", TURN, id=f"{save.__name__}-oblique")
        for save in (save_nifti, save_nrrd, save_mha, save_series, save_enhanced)
    ],
]


@pytest.mark.parametrize(("save", "order", "turn"), CASES)
def test_left_is_left(
    save: Callable[..., Path],
    order: str,
    turn: npt.NDArray[np.float64] | None,
    tmp_path: Path,
    dicom_image: Callable[..., Dataset],
) -> None:
    affine = grid(order, turn)
    (volume,) = read(save(tmp_path, affine, dicom_image))
    ball = volume.data == 1000
    assert ball.sum() == (phantom(affine) == 1000).sum()
    voxel_ras = nib.affines.apply_affine(volume.geometry.affine, centre(ball)[::-1])
    true_ras = places(affine)[phantom(affine) == 1000].mean(axis=0)
    np.testing.assert_allclose(voxel_ras, true_ras, atol=1e-2)
    assert volume.geometry.regular
    if turn is None:
        _check_display(volume, ball, true_ras)
        _check_slices(volume, ball)
    _check_mask(volume, ball, true_ras, tmp_path)


def _check_display(volume: Scan, ball: npt.NDArray[np.bool_], ras: npt.NDArray[np.float64]) -> None:
    """In napari's world, the ball lies at its (S, P, L) millimetres."""
    geometry = volume.geometry
    index = centre(geometry.to_display(ball))
    shown = index * geometry.display_spacing + geometry.display_translate
    np.testing.assert_allclose(shown, [ras[2], -ras[1], -ras[0]], atol=1e-2)


def _check_slices(volume: Scan, ball: npt.NDArray[np.bool_]) -> None:
    """In an upright slice, the patient's left is on the right, front and head are on top."""
    upright = volume.geometry.to_slices(ball)
    _, row, column = centre(upright) / (np.array(upright.shape) - 1)
    assert row < 0.5  # anterior in axial slices, superior in the others
    if volume.geometry.plane == "sagittal":
        assert column < 0.5  # anterior on the left
    else:
        assert column > 0.5


def _check_mask(
    volume: Scan, ball: npt.NDArray[np.bool_], ras: npt.NDArray[np.float64], folder: Path
) -> None:
    write_nifti(folder / "mask.nii.gz", ball, volume.geometry, like=volume.path)
    image = nib.load(folder / "mask.nii.gz")
    where = nib.affines.apply_affine(image.affine, centre(np.asarray(image.dataobj) > 0))
    np.testing.assert_allclose(where, ras, atol=1e-2)
