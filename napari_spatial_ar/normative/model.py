"""A normative model: what normal looks like, and how far a scan is from it."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_spatial_ar.datasets.selection import Selection, SlicePlane
from napari_spatial_ar.errors import InputError, MemoryShortage, ModelFileError
from napari_spatial_ar.imaging.geometry import Plane
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Intensity
from napari_spatial_ar.imaging.tissue import has_tissue
from napari_spatial_ar.imaging.windows import apply_window, resolve
from napari_spatial_ar.normative import model_file
from napari_spatial_ar.normative.backbones import engines
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.devices import resolve_device
from napari_spatial_ar.normative.backbones.fair_lock import FairLock
from napari_spatial_ar.normative.backbones.kept_tokens import KeptTokens
from napari_spatial_ar.normative.batching import (
    BatchScorer,
    BatchSizes,
    Prepared,
    ahead,
    scores_in_order,
)
from napari_spatial_ar.normative.calibration.calibration import Calibration
from napari_spatial_ar.normative.calibration.domain_shift import SeenSlices
from napari_spatial_ar.normative.calibration.seen_slices import (
    SliceComparison,
    body_of_patches,
    channels_used,
)
from napari_spatial_ar.normative.cancellation import check_cancelled
from napari_spatial_ar.normative.detectors import Detector, score_grid
from napari_spatial_ar.normative.library import find_model, trained_backbone, trained_on
from napari_spatial_ar.normative.memory import one_sentence, release, releases_memory
from napari_spatial_ar.normative.model_file import MODEL_FILE, ModelHeader
from napari_spatial_ar.normative.scores import Example, ScanScores, SliceScore
from napari_spatial_ar.normative.scoring import score_slices
from napari_spatial_ar.normative.slice_smoothing import averaged, slice_weights, smoothed_slices
from napari_spatial_ar.normative.tiling import Tiling, embed_slice

__all__ = ["NormativeModel", "load_model"]

# For scoring in batches: number of threads that prepare slices, and of slices ready at most.
_THREADS, _AHEAD = min(8, os.cpu_count() or 1), 96


class NormativeModel:
    """A fitted model.

    Parameters
    ----------
    name : str
        Name of its folder.
    header : ModelHeader
        The header of the model file.
    detector : Detector
        The method that scores embeddings.
    sha256 : str
        Hash of the model file's content; "" for a model never saved.
    backbone : Backbone, optional
        By default loaded on first use.
    weights : path, optional
        File to load the backbone from.
    device : str or torch.device
        Where to score.
    """

    def __init__(
        self,
        name: str,
        header: ModelHeader,
        detector: Detector,
        *,
        sha256: str = "",
        backbone: Backbone | None = None,
        weights: str | Path | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        self.name = name
        self.header = header
        self.sha256 = sha256
        self.device = resolve_device(device)
        self.detector = detector.to(self.device)
        #: The file it was saved to or loaded from.
        self.folder: Path | None = None
        #: Slices of a calibration made in this session; empty for a model that was loaded.
        self.examples: tuple[Example, ...] = ()
        #: Notices about the scans of that calibration, one sentence each.
        self.warnings: tuple[str, ...] = ()
        self._whole: NormativeModel | None = None
        self._moved = ""
        self._compares: tuple[SeenSlices, torch.device, SliceComparison] | None = None
        self._engine = "float32"
        self._weights = weights
        if backbone is not None:
            self.backbone = backbone

    @cached_property
    def backbone(self) -> Backbone:
        """The frozen backbone, loaded on first use after checking that it is the one trained on.

        Raises
        ------
        WeightsError
            If its weights are missing or are not those the model was trained on.
        """
        if self._whole is not None:
            return self._whole.backbone
        backbone = trained_backbone(
            self.header, self.name, weights=self._weights, device=self.device
        )
        backbone.use(self._engine)
        return backbone

    def __repr__(self) -> str:
        header = self.header
        trained = trained_on(header.training)
        parts = (repr(self.name), header.modality, f"{header.method} of {header.backbone.name}")
        return f"NormativeModel({', '.join(parts)}, trained on {trained}, on {self.device})"

    def use_engine(self, engine: str) -> None:
        """Switch the backbone to another engine, see `Backbone.use`.

        If it is not loaded yet, this happens once it is.
        """
        engines.check(engine, self.device)
        if engine == (self.engine or self._engine):
            return
        self._engine = engine
        if "backbone" in vars(self):
            with self.lock.held():
                self.backbone.use(engine)
                vars(self).pop("_batches", None)  # it may hold graphs of the previous engine

    @property
    def lock(self) -> FairLock:
        """The lock of the backbone, held while a thread scores or explains a slice or a batch.

        It keeps threads that share a model apart: on a GPU the results of a replayed graph are
        valid until the next replay, nothing else may run while a graph is captured, and a model
        may move to the CPU only between two slices.
        """
        return self.backbone.lock

    @property
    def engine(self) -> str:
        """Name of the backbone's engine; "" before the backbone is loaded."""
        return vars(self)["backbone"].engine if "backbone" in vars(self) else ""

    @property
    def backbone_weights(self) -> dict[str, Any]:
        """Which weights the backbone uses, for the record; empty before it is loaded."""
        return vars(self)["backbone"].weights_record if "backbone" in vars(self) else {}

    @property
    def notes(self) -> list[str]:
        """Changes made because memory ran short, as sentences."""
        moved = [self._moved] if self._moved else []
        return [*moved, *(self.backbone.portions.warnings if "backbone" in vars(self) else [])]

    @property
    def modality(self) -> str:
        """Modality it was trained on: ``"mri"``, ``"ct"`` or ``"oct"``."""
        return self.header.modality

    @property
    def unit(self) -> str:
        """Unit of the heatmap and of thresholds."""
        return self.detector.unit

    def score_slice(
        self, image: npt.NDArray[np.generic], *, window: tuple[float, float] | None = None
    ) -> SliceScore:
        """Score one upright slice.

        Parameters
        ----------
        image : (Y, X)
            Voxels in stored units. uint8, or whole numbers within 0..255, count as 8-bit grey;
            anything else is windowed by the model's rule, percentiles being those of the slice.
        window : (low, high), optional
            Values shown to the model as black and white, instead of that rule.

        Raises
        ------
        InputError
            If the image is not finite, not two-dimensional, constant, or smaller than a patch.
        """
        self._check(image)
        if window is None:
            window = resolve(self.header.preprocessing.window, image, _intensity_of(image))
        return self._score(self._prepared(apply_window(image, *window)))

    def _check(self, image: npt.NDArray[np.generic]) -> None:
        if image.ndim != 2:
            raise InputError(f"a slice has two axes (Y, X), not shape {image.shape}")
        patch = self.backbone.patch
        if min(image.shape) < patch:
            raise InputError(
                f"a slice of {image.shape[0]} x {image.shape[1]} pixels is smaller than one patch "
                f"of {patch} x {patch}",
                fix="Check that the scan is not a thumbnail, and which axis is the slice axis",
            )
        if not np.isfinite(image).all():
            raise InputError("the slice contains values that are not finite numbers")
        if image.min() == image.max():
            raise InputError(f"all pixels of the slice have the same value, {image.min():g}")

    def _prepared(self, unit: npt.NDArray[np.float32]) -> Prepared:
        """Find the patches of a windowed slice that the backbone processes."""
        if not self._in_batches:
            return Prepared(unit)
        present = self.header.preprocessing.present(unit, self.backbone.patch)
        kept = None if present is None else KeptTokens.of(present[None])
        if self._comparison is None:
            return Prepared(unit, kept)
        tiling = Tiling.of(self.header.preprocessing, self.backbone.patch)
        return Prepared(unit, kept, body=body_of_patches(unit, tiling.grid))

    def _score(self, shown: Prepared) -> SliceScore:
        """Score a windowed slice; if the device has too little memory, move to the CPU for good."""
        try:
            return self._score_here(shown)
        except MemoryShortage:
            if self.device.type == "cpu":
                raise
        # Outside the handler: the error holds references to tensors of the failed attempt.
        with self.lock.held():
            self._move_to_cpu()
        return self._score_here(shown)

    def _move_to_cpu(self) -> None:
        if self.device.type == "cpu":
            return  # another thread did
        if self._whole is not None:
            self._whole._move_to_cpu()
        self._moved = (
            f"Memory of the device '{self.device}' ran short, so slices are scored on the CPU, "
            "which is slower."
        )
        self.device = torch.device("cpu")
        self.detector = self.detector.to(self.device)
        self.backbone.move(self.device)
        vars(self).pop("_batches", None)
        release()

    def _score_here(self, shown: Prepared) -> SliceScore:
        preprocessing, (rows, columns) = self.header.preprocessing, shown.unit.shape
        with self.lock.held(), one_sentence("Scoring a slice", self.device):
            if self._in_batches:
                return self._batches.one(shown)
            grids = embed_slice(self.backbone, preprocessing, shown.unit)
            check_cancelled()
            tiling = Tiling.of(preprocessing, self.backbone.patch)
            score = score_grid(self.detector, self.header.scoring, grids, (rows, columns), tiling)
            if self._comparison is None:
                return score
            body = body_of_patches(shown.unit, tiling.grid)
            return replace(score, unfamiliarity=self._comparison.of_tiles(grids, body, tiling))

    @property
    def _comparison(self) -> SliceComparison | None:
        """Compares slices with the training slices; None if the model's file has no basis."""
        seen = None if self.header.looks is None else self.header.looks.seen
        if seen is None:
            return None
        if (
            self._compares is None
            or self._compares[0] is not seen
            or (self._compares[1] != self.device)
        ):
            if len(seen.centre) != channels_used(self.backbone.channels):
                raise ModelFileError(
                    "the model file is damaged: its description of the training slices is not of "
                    f"embeddings with {self.backbone.channels} channels",
                    fix="Copy it again from where it came from",
                )
            self._compares = seen, self.device, SliceComparison(seen, self.device)
        return self._compares[2]

    @property
    def _in_batches(self) -> bool:
        """Whether slices are prepared and scored on a GPU, where large batches are efficient."""
        preprocessing = self.header.preprocessing
        # A stand-in for the backbone has its own way of embedding.
        return (
            self.device.type == "cuda"
            and torch.cuda.is_available()
            and hasattr(type(self.backbone), "compute")
            and not (preprocessing.clahe or preprocessing.tile)
        )

    @cached_property
    def _batches(self) -> BatchScorer:
        return BatchScorer(
            self._maps,
            self._score,
            self.device,
            graphs=self.detector.replayable,
            lock=self.lock,
            parts=tuple(self.detector.parts),
        )

    @cached_property
    def _sizes(self) -> BatchSizes:
        return BatchSizes()

    @torch.inference_mode()
    def _maps(
        self, units: Tensor, kept: KeptTokens | None, body: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Heatmaps, patch scores, image scores and unfamiliarity; see `BatchScorer`."""
        images = self.header.preprocessing.resized(units)
        grids = self.backbone.compute(images, *([] if kept is None else [kept]))
        found = self.detector.all_scores(grids)
        shape = (int(units.shape[1]), int(units.shape[2]))
        heat, images = self.header.scoring.maps(found.patches, shape, self.detector.heatmap_divisor)
        patches = torch.stack([found.patches, *found.parts.values()], dim=1).float()
        images = images if found.images is None else found.images.float()
        if body is None or self._comparison is None:
            return heat, patches, images
        return heat, patches, images, self._comparison.of_grids(grids, body)

    @property
    def plane(self) -> Plane | None:
        """Plane of the training slices; None if they were as acquired."""
        return self.header.selection.cut

    def cut(self, volume: Scan, plane: SlicePlane | None = None) -> Scan:
        """Return a scan with the slices that the model scores, see `score_volume`.

        Raises
        ------
        InputError
            If it has no such slices.
        """
        return volume.along(self.plane if plane is None else Selection(plane).cut)

    @releases_memory
    def iter_volume(
        self, volume: Scan, slices: Sequence[int] | None = None
    ) -> Generator[tuple[int, SliceScore], None, None]:
        """Score slices one by one; stop iterating to cancel.

        If memory runs short, batches get smaller, and finally the CPU is used: see `notes`.

        Parameters
        ----------
        volume : Scan
            The scan; percentile windows are those of the whole volume.
        slices : sequence of int, optional
            Indices along ``volume.geometry.slice_axis``, in the requested order; all by default.
            If the model averages over slices, neighbours outside these are scored too.

        Yields
        ------
        (int, SliceScore)
            A slice without body gets a heatmap of zeros and the image score NaN.

        Raises
        ------
        InputError
            If an index is out of range or the slices are smaller than a patch.
        MemoryShortage
            If even the CPU has too little memory for one slice.
        """
        count = volume.geometry.slice_count
        order = range(count) if slices is None else slices
        for index in order:
            if not 0 <= index < count:
                raise InputError(f"there is no slice {index}: the scan has {count}")
        weights = slice_weights(volume.geometry, self.header.scoring.smoothing_z)
        if not weights:
            yield from self._iter_slices(volume, order)
            return
        yield from smoothed_slices(
            order, weights, lambda needed: self._iter_slices(volume, needed), self.smoothed
        )

    def smoothed(
        self, index: int, scores: Mapping[int, SliceScore], weights: Mapping[int, float]
    ) -> SliceScore:
        """Scores of a slice, averaged with those of its neighbours.

        Parameters
        ----------
        index : int
            The slice.
        scores, weights : mapping of int to SliceScore, mapping of int to float
            See `napari_spatial_ar.normative.slice_smoothing.averaged`.

        Returns
        -------
        SliceScore
            Heatmap and image score are those of the averaged patch scores; an image score of the
            method's own is averaged itself.
        """
        found = averaged(index, scores, weights)
        if found is scores[index] or found.grid is None:
            return found
        (rows, columns), divisor = found.nll.shape, self.detector.heatmap_divisor
        new = self.header.scoring(torch.from_numpy(found.grid), (rows, columns), divisor)
        own = self.detector.scores_images
        return replace(found, nll=new.nll, image_score=(found if own else new).image_score)

    def _iter_slices(
        self, volume: Scan, order: Sequence[int]
    ) -> Generator[tuple[int, SliceScore], None, None]:
        """Score slices one by one, each by itself."""
        window = resolve(self.header.preprocessing.window, volume)

        def shown(index: int) -> tuple[int, Prepared]:
            unit = apply_window(volume.slice(index), *window)
            if not (has_tissue(unit) and bool(unit.min() < unit.max())):
                return index, Prepared(unit, filled=False)
            self._check(unit)
            return index, self._prepared(unit)

        if not self._in_batches:
            for index, one in map(shown, order):
                yield index, self._score(one) if one.filled else SliceScore.empty(one.unit.shape)
            return
        prepared = ahead(shown, order, threads=_THREADS, most=_AHEAD)
        yield from scores_in_order(self._batches, prepared, self._sizes)

    def score_volume(
        self,
        volume: Scan,
        slices: Sequence[int] | None = None,
        progress: Callable[[int, int], None] | None = None,
        *,
        plane: SlicePlane | None = None,
    ) -> ScanScores:
        """Score a volume slice by slice.

        Parameters
        ----------
        volume, slices
            As for `iter_volume`.
        progress : callable, optional
            Called with (slices done, slices in all) after each; an exception that it raises stops
            the work.
        plane : {"as-acquired", "axial", "coronal", "sagittal"}, optional
            Slices to score; by default those of the plane it was trained on.

        Returns
        -------
        ScanScores
            On the volume's own grid, whatever the plane; its geometry has the slices scored.

        Raises
        ------
        InputError
            As for `iter_volume` and `Scan.along`.
        """
        volume = self.cut(volume, plane)
        result = ScanScores.empty(volume.geometry)
        total = len(result.visited) if slices is None else len(slices)
        for done, _ in enumerate(score_slices(self, volume, slices, scores=result), start=1):
            if progress is not None:
                progress(done, total)
        return result

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts of its method that can score alone; none for most methods."""
        return tuple(self.detector.parts)

    def part(self, name: str) -> NormativeModel:
        """Return a model that scores by one part of the method alone, in the part's own unit.

        It shares the backbone, and has the part's own calibration, if the model file has one.

        Raises
        ------
        InputError
            If the method has no such part.
        """
        if name not in self.parts:
            has = f"It has: {', '.join(self.parts)}" if self.parts else "It has no parts"
            raise InputError(
                f"the method '{self.header.method}' of the model '{self.name}' has no part "
                f"'{name}'",
                fix=has,
            )
        header = replace(
            self.header,
            calibration=self.header.part_calibrations.get(name),
            part_calibrations={},
            part=name,
        )
        found = NormativeModel(
            f"{self.name}+{name}",  # no model's own name has a plus sign
            header,
            self.detector.parts[name],
            sha256=self.sha256,
            device=self.device,
        )
        found.folder, found._whole = self.folder, self
        found._engine = self._engine
        return found

    def scores_of(self, part: str, scores: ScanScores) -> ScanScores:
        """Scores of a scan by one part alone, from the patch scores kept with those of all parts.

        Parameters
        ----------
        part : str
            Its name, one of `parts`.
        scores : ScanScores
            By this model. Slices without patch scores of the part count as not visited.
        """
        divisor = self.detector.parts[part].heatmap_divisor
        found = ScanScores.empty(scores.geometry)
        for index in np.flatnonzero(scores.visited).tolist():
            score = scores.slice_score(index)
            if not np.isfinite(score.image_score):
                found.put(index, SliceScore.empty(score.nll.shape))
            elif part in score.parts:
                patches = torch.from_numpy(score.parts[part])
                shape = (score.nll.shape[0], score.nll.shape[1])
                alone = self.header.scoring(patches, shape, divisor)
                found.put(index, replace(alone, unfamiliarity=score.unfamiliarity))
        return found

    def threshold_for_fpr(self, fpr: float) -> float:
        """Threshold that flags a share ``fpr`` of normal tissue.

        Raises
        ------
        InputError
            If the model has no calibration, or none for this share.
        """
        return self.calibration.threshold_for_fpr(fpr)

    def fpr_for_threshold(self, threshold: float) -> float:
        """Share of normal tissue that a threshold flags.

        Raises
        ------
        InputError
            If the model has no calibration.
        """
        return self.calibration.fpr_for_threshold(threshold)

    @property
    def calibration(self) -> Calibration:
        """What its scores mean.

        Raises
        ------
        InputError
            If the model has no calibration.
        """
        if self.header.calibration is None:
            raise InputError(
                f"the model '{self.name}' has no calibration, so there are no thresholds for "
                "shares of normal tissue, and no p-values",
                fix="Give a threshold instead, or run 'napari-spatial-ar calibrate'",
            )
        return self.header.calibration

    def save(self, folder: str | Path) -> Path:
        """Write ``model.safetensors`` into a folder, completely or not at all."""
        self.folder = Path(folder)
        path = self.folder / MODEL_FILE
        self.sha256 = model_file.write(path, self.header, self.detector.tensors())
        return path


def _intensity_of(image: npt.NDArray[np.generic]) -> Intensity:
    if image.dtype == np.uint8:
        return "grey8"
    low, high = float(image.min()), float(image.max())
    if low >= 0 and 1 < high <= 255 and np.array_equal(image, np.rint(image)):
        return "grey8"
    return "arbitrary"


def load_model(
    path_or_name: str | Path,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "auto",
    part: str | None = None,
) -> NormativeModel:
    """Load a model.

    Parameters
    ----------
    path_or_name : path or str
        A model file, its folder, or the name of a model that `list_models` lists.
    weights : path, optional
        File of the backbone's weights, if `load_backbone` would not find them.
    device : str or torch.device
        Where to score.
    part : str, optional
        Score by this part of the method alone, see `NormativeModel.part`.

    Raises
    ------
    InputError
        If the method has no such part.
    ModelFileError
        If there is no such model, or it is damaged, of another version or of an unknown method.
    """
    path = find_model(path_or_name)
    header, detector, digest = model_file.read_detector(path)
    model = NormativeModel(
        path.parent.name, header, detector, sha256=digest, weights=weights, device=device
    )
    model.folder = path.parent
    return model if part is None else model.part(part)
