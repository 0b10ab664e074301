"""What a folder holds, and the summary of it: real files of every kind in one folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from napari_spatial_ar.datasets.folders import find_slices
from napari_spatial_ar.datasets.summary import DataSummary, Side
from napari_spatial_ar.datasets.survey import REASONS, SurveyProgress, survey
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.windows import Window
from napari_spatial_ar.steps import finish

NAME = "Doe_John"


def summarise(folder: Any, **asked: Any) -> DataSummary:
    return DataSummary(finish(survey(folder, **asked)))


def body(seed: int, side: int = 24) -> np.ndarray:
    """A disc on air, no two alike."""
    rows, columns = np.mgrid[:side, :side] - side // 2
    disc = (rows**2 + columns**2 < (side // 3) ** 2).astype(np.float32)
    noise = np.random.default_rng(seed).uniform(100, 200, disc.shape)
    return (disc * noise).astype(np.uint8)


def save(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


@pytest.fixture
def mixed(tmp_path: Path, write_series: Callable[..., list[Path]]) -> Path:
    """Pictures, NIfTI and DICOM of every fate, nested; the file names hold a patient's name."""
    folder = tmp_path / "d"
    for number in range(3):
        save(folder / f"pictures/{NAME}_{number}.png", body(number))
    save(folder / f"pictures/copies/{NAME}_9.png", body(0))
    save(folder / f"pictures/{NAME}_tiny_1.png", body(5, side=9))
    (folder / f"pictures/{NAME}_damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    voxels = np.stack([body(7), body(8), np.zeros((24, 24), np.uint8)], axis=-1)
    (folder / "nifti").mkdir()
    scan = nib.Nifti1Image(voxels.astype(np.int16), np.diag([-0.5, -0.5, 3.0, 1.0]))
    nib.save(scan, folder / f"nifti/{NAME}.nii")
    (folder / "nifti/again.nii").write_bytes((folder / f"nifti/{NAME}.nii").read_bytes())
    stack = np.stack([body(n) for n in (20, 21)]).astype(np.uint16)
    write_series(stack, folder="d/mr", SeriesInstanceUID="1.1")
    write_series(stack + 1, folder="d/ct", SeriesInstanceUID="1.2", Modality="CT")
    localizer = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write_series(stack + 2, folder="d/scout", SeriesInstanceUID="1.3", ImageType=localizer)
    derived = ["DERIVED", "SECONDARY", "PROJECTION IMAGE"]
    write_series(stack + 3, folder="d/mip", SeriesInstanceUID="1.4", ImageType=derived)
    return folder


def test_everything_is_used_or_left_out_with_its_reason(mixed: Path) -> None:
    found = summarise(mixed, modality="mri")
    assert found.left_out == {
        "localizer": 2,
        "derived": 2,
        "modality": 2,
        "small": 1,
        "empty": 1,
        "copy": 4,
    }
    assert sum(found.unreadable.values()) == 1
    assert found.total == Side(slices=7, patients=3)
    kinds = {(s.modality, s.plane): len(s.refs) for s in found.used}
    assert kinds == {("unknown", ""): 3, ("unknown", "axial"): 2, ("mri", "axial"): 2}
    spacings = {s.spacing for s in found.used if s.modality == "unknown"}
    assert spacings == {None, (3.0, 0.5, 0.5)}
    assert {size for s in found.used for size in s.sizes if s.refs} == {(24, 24), (9, 9)}
    assert all(s.picture is not None and max(s.picture.shape) == 72 for s in found.used)
    text = "\n".join(found.lines())
    for reason in found.left_out:
        assert REASONS[reason] in text


def test_a_fit_gets_just_what_the_summary_counts(mixed: Path) -> None:
    found = summarise(mixed, modality="mri")
    slices = find_slices(mixed, modality="mri")
    assert slices.train == tuple(ref for series in found.used for ref in series.refs)
    assert any("4 slices excluded: copies" in text for text in slices.warnings)
    (key,) = (series.key for series in found.used if series.modality == "mri")
    fewer = found.without({key})
    assert fewer.left_out["excluded"] == 2
    left = find_slices(mixed, modality="mri", exclude={key}).train
    assert left == tuple(ref for series in fewer.used for ref in series.refs)
    assert len(left) == 5
    with pytest.raises(InputError, match=r"no slice in it can be used\. 2 slices excluded: local"):
        find_slices(mixed, modality="mri", exclude={series.key for series in found.used})


def test_a_folder_that_may_not_be_opened_is_told_and_changes_nothing_else(
    tmp_path: Path, close: Callable[[Path], None]
) -> None:
    for name in ("p_1", "p_2", "q_1"):
        save(tmp_path / f"open/{name}.png", body(len(name)) * (1 + ord(name[0]) + int(name[-1])))
    before = find_slices(tmp_path)
    close(tmp_path / "closed")
    for pattern in (None, "open/(.)"):
        slices = find_slices(tmp_path, patient_pattern=pattern)
        assert [ref.group for ref in slices.train] == [ref.group for ref in before.train]
        (warning,) = set(slices.warnings) - set(before.warnings)
        assert "may not be opened" in warning


def test_no_name_is_told(mixed: Path) -> None:
    found = summarise(mixed, modality="mri")
    told = json.dumps(found.to_dict()) + "\n".join(found.lines()) + repr(found)
    for part in ("Doe", "John", "4711", str(mixed)):
        assert part not in told


def test_several_folders_are_one_set_and_keys_follow_content(tmp_path: Path) -> None:
    save(tmp_path / "a/p_1.png", body(1))
    save(tmp_path / "b/q_1.png", body(2))
    both = summarise([tmp_path / "a", tmp_path / "b"])
    assert both.total == Side(2, 2)
    assert len(find_slices([tmp_path / "a", tmp_path / "b"]).train) == 2
    (tmp_path / "a").rename(tmp_path / "c")
    assert both.survey.series[0].key == summarise(tmp_path / "c").survey.series[0].key


def test_progress_reaches_the_end_and_a_stop_reads_no_more(mixed: Path) -> None:
    steps = survey(mixed, modality="mri")
    first = next(steps)
    steps.close()
    assert first == SurveyProgress(0, 0)
    told = list(survey(mixed, modality="mri"))
    files = sum(path.is_file() for path in mixed.rglob("*"))
    assert told[-1] == SurveyProgress(files, files)
    assert [step.done for step in told] == sorted(step.done for step in told)


def test_the_histogram_counts_the_body_as_the_model_sees_it(tmp_path: Path) -> None:
    picture = np.zeros((20, 20), np.uint8)
    picture[5:15, 5:10] = 128
    picture[5:15, 10:15] = 255
    save(tmp_path / "p_1.png", picture)
    histogram = summarise(tmp_path, window=Window("full8")).histogram
    assert histogram.sum() == 100
    assert histogram[-1] == 50
    assert histogram[16] == 50


def test_sizes_that_differ_are_drawn_as_a_histogram(tmp_path: Path) -> None:
    for number, spacing in enumerate((0.5, 0.5, 0.5, 1.0)):
        voxels = np.stack([body(10 * number + n) for n in range(3)], axis=2).astype(np.int16)
        scan = nib.Nifti1Image(voxels, np.diag([-spacing, -spacing, 3.0, 1.0]))
        nib.save(scan, tmp_path / f"{number}.nii")
    said = next(line for line in summarise(tmp_path).lines() if line.startswith("Slices of"))
    assert said == "Slices of 24 x 24 pixels, 0.5 to 1 (█▁▁▁▁▁▁▃) mm a pixel, 3 mm apart."


def patients(folder: Path, count: int) -> DataSummary:
    for patient in range(count):
        save(folder / f"p{patient}/1.png", body(patient, side=16))
    return summarise(folder)


@pytest.mark.parametrize(
    ("count", "held_out", "share", "says"),
    [(2, 1, 0.5, "Only 1 patient is"), (10, 2, 1 / 3, "33 %"), (40, 8, 1 / 9, "11 %")],
)
def test_the_split_says_what_cannot_be_promised(
    tmp_path: Path, count: int, held_out: int, share: float, says: str
) -> None:
    found = patients(tmp_path, count)
    assert found.split == (Side(count - held_out, count - held_out), Side(held_out, held_out))
    assert found.least_share == pytest.approx(share)
    assert says in found.promise()
    assert ("That is few" in found.promise()) == (held_out < 5)
    assert found.lines()[-1] == found.promise()


def test_patients_enough_need_no_word(tmp_path: Path) -> None:
    for number in range(100):
        save(tmp_path / f"valid/good/img/v{number}x_1.png", body(number, side=16))
    save(tmp_path / "train/good/t_1.png", body(1000, side=16))
    found = summarise(tmp_path)
    assert found.split == (Side(1, 1), Side(100, 100))
    assert found.promise() == ""


def test_one_patient_is_too_few_to_fit(tmp_path: Path) -> None:
    found = patients(tmp_path, 1)
    assert found.split is None
    assert "cannot be fitted" in found.promise()
    assert found.without({found.used[0].key}).promise() == "There is nothing to learn from."
