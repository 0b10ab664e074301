"""Score scans one after the other, each into a folder of its own."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from napari_spatial_ar.datasets.read_ahead import one_ahead
from napari_spatial_ar.datasets.selection import AS_ACQUIRED, SlicePlane
from napari_spatial_ar.errors import InputError, MemoryShortage, SpatialARError
from napari_spatial_ar.imaging.dicom.deidentify import need_deidentification
from napari_spatial_ar.imaging.files import locked
from napari_spatial_ar.imaging.guard import one_source
from napari_spatial_ar.imaging.reading import find_scans
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.backbones.fastest_engine import choose_engine
from napari_spatial_ar.normative.calibration.appearance import domain_shift
from napari_spatial_ar.normative.model import NormativeModel, load_model
from napari_spatial_ar.review.bids import BidsDerivatives
from napari_spatial_ar.review.earlier import EarlierResults, StoredResults, scan_sha256
from napari_spatial_ar.review.masks import MaskSettings
from napari_spatial_ar.review.outputs import (
    OUTPUT_FILES,
    in_folder,
    refuse_earlier,
    scan_folder_name,
    write_scan_outputs,
)
from napari_spatial_ar.review.p_values import share_note
from napari_spatial_ar.review.report.data import ScanReport
from napari_spatial_ar.review.report.folder import FolderReports, kept_report
from napari_spatial_ar.review.report.pdf import Paper, need_pdf

__all__ = ["Flagging", "scans_to_score", "score_scan", "score_scans"]

# Folder of the BIDS derivatives among the results.
_BIDS = "bids"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Flagging:
    """The rules by which scans of one run are flagged.

    Parameters
    ----------
    threshold : float
        Threshold of the mask, in the model's unit.
    share : float or None
        Share of normal tissue that it flags, if the model's calibration covers it.
    settings : MaskSettings or None
        How the voxels above it become the mask.
    alpha : float or None
        Largest p-value of a scan that is reported as unusual.
    """

    threshold: float
    share: float | None
    settings: MaskSettings | None
    alpha: float | None

    @classmethod
    def of(
        cls,
        model: NormativeModel,
        *,
        fpr: float,
        threshold: float | None,
        alpha: float | None,
        settings: MaskSettings | None,
        hysteresis_fpr: float | None,
    ) -> Flagging:
        """Derive the rules for a model; the parameters are those of `score_scans`.

        Raises
        ------
        InputError
            If the model's calibration does not cover the request.
        """
        if threshold is not None and not math.isfinite(threshold):
            raise InputError(f"the threshold {threshold} is not a number")
        cut = model.threshold_for_fpr(fpr) if threshold is None else threshold
        calibration = model.header.calibration
        share = calibration.fpr_for_threshold(cut) if calibration else None
        if hysteresis_fpr is not None:
            higher = model.threshold_for_fpr(hysteresis_fpr)
            if higher <= cut:
                raise InputError(
                    f"a hysteresis share of {hysteresis_fpr:g} gives no threshold above the mask's "
                    "own",
                    fix="Choose a share smaller than --fpr",
                )
            settings = replace(settings or MaskSettings(), hysteresis=higher)
        if alpha is not None:
            model.calibration.check_alpha(alpha)
        return cls(cut, share, settings, alpha)

    def of_files(self) -> list[Any]:
        """Everything that the written results depend on, as plain JSON values."""
        return [self.threshold, self.share, (self.settings or MaskSettings()).to_dict()]

    def judged(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return a scan's record with ``unusual``, if a largest p-value was given."""
        if self.alpha is None:
            return record
        p = record["p_value"]
        return {**record, "unusual": None if p is None else p <= self.alpha + 1e-12}

    def note(self, model: NormativeModel) -> str | None:
        """One sentence on the basis of the threshold; None if it was never measured."""
        calibration = model.header.calibration
        return share_note(calibration, self.threshold, self.settings) if calibration else None


def score_scans(
    inputs: Sequence[Path],
    model: str | Path | NormativeModel,
    out: Path,
    *,
    fpr: float = 0.01,
    threshold: float | None = None,
    alpha: float | None = None,
    settings: MaskSettings | None = None,
    hysteresis_fpr: float | None = None,
    montage: bool = True,
    keep_uids: bool = False,
    weights: Path | None = None,
    device: str = "auto",
    dicom: bool | Sequence[str] = False,
    de_identify: bool = False,
    png: bool = False,
    png_heat: bool = False,
    report: bool = False,
    pdf: Paper | None = None,
    seg_nrrd: bool = False,
    itksnap: bool = False,
    bids: bool = False,
    every_series: bool = False,
    plane: SlicePlane | None = None,
    part: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score every scan found in the inputs, reading each while the previous one is scored.

    Called again with the same arguments after an interruption, or after some of the scans changed,
    it does the rest. The output folder is locked by this process meanwhile.

    Parameters
    ----------
    inputs : sequence of Path
        Files or folders; each may contain several series.
    model : str, Path or NormativeModel
        See `load_model`; one that is loaded has its weights, device and part already.
    out : Path
        Gets one folder per scan, named after its series and never after a patient or a file. Scans
        whose series have one name get the start of a hash of their content as well.
    fpr, threshold
        The mask's threshold: that which flags a share ``fpr`` of normal tissue, or a number in
        the model's unit.
    alpha : float, optional
        Report a scan as unusual if its p-value is at most this.
    report : bool
        Also write ``report.html`` for each scan, and one for all of them into ``out``.
    pdf : {"A4", "Letter"}, optional
        Also write ``report.pdf`` in the same way, on this paper.
    hysteresis_fpr : float, optional
        Keep only regions with a voxel above the threshold for this smaller share, instead of
        ``settings.hysteresis``.
    settings, montage, keep_uids, dicom, de_identify, png, png_heat, seg_nrrd, itksnap, overwrite
        See `score_scan`.
    bids : bool
        Also write the masks of scans in a BIDS dataset under BIDS names, with the subjects'
        labels, into the folder ``bids`` of ``out``; see `BidsDerivatives`.
    plane : {"as-acquired", "axial", "coronal", "sagittal"}, optional
        Slices to score; by default those of the plane that the model was trained on.
    part : str, optional
        Score by this part of the method alone, see `NormativeModel.part`.
    every_series : bool
        Also score localizers and derived series if an input contains an original one.
    weights, device
        See `load_model`.
    progress : callable, optional
        Called with (series label, slices done, slices in all).

    Returns
    -------
    dict
        ``scans``: one record each; ``failed``: one sentence for each input that could not be
        read or scored while others could; ``left_out``: one sentence for each series that was
        excluded for its type; ``backbone``: where its weights came from; ``engine``: what
        computed it; ``calibration``: one sentence on the basis of the threshold, None if it
        was never measured; ``skipped``: number of scans finished earlier; ``report``,
        ``report_pdf``: the reports of all scans, None if not requested. With ``bids``, also
        ``bids``: the folder, and ``without_bids``: one sentence for each scan without files there.

    Raises
    ------
    SpatialARError
        If another process writes to the folder (`InUseError`), the model cannot be used, its
        calibration does not cover ``fpr`` or ``alpha``, a PDF cannot be written here or headers
        not be de-identified, or no input could be scored.
    """
    if pdf:
        need_pdf()
    if dicom and de_identify:
        need_deidentification()
    with locked(out):
        loaded = (
            model
            if isinstance(model, NormativeModel)
            else load_model(model, weights=weights, device=device, part=part)
        )
        flagging = Flagging.of(
            loaded,
            fpr=fpr,
            threshold=threshold,
            alpha=alpha,
            settings=settings,
            hysteresis_fpr=hysteresis_fpr,
        )
        options: dict[str, Any] = {
            "montage": montage,
            "keep_uids": keep_uids,
            "dicom": dicom,
            "png": png,
            "png_heat": png_heat,
            "report": report,
            "pdf": pdf,
            # Without them, results finished before there were such files still count.
            **({"seg_nrrd": True} if seg_nrrd else {}),
            **({"itksnap": True} if itksnap else {}),
            **({"de_identify": True} if de_identify else {}),
        }
        by = [loaded.sha256, *([part] if part else [])]
        asked = _hashed([*by, flagging.of_files(), plane, options])
        command = _hashed([asked, [str(path.resolve()) for path in inputs], every_series])
        earlier = EarlierResults(out)
        reports = None
        if report or pdf:
            # If every result is of exactly this command, so is the report.
            same = earlier.commands == {command}
            reports = FolderReports(out, overwrite=overwrite or same, html=report, pdf=pdf)
        choose_engine(loaded)
        derived = BidsDerivatives(out / _BIDS, loaded.name) if bids else None
        without_bids: list[str] = []
        scans: list[dict[str, Any]] = []
        errors: list[SpatialARError] = []
        left_out: list[str] = []
        finished: dict[str, dict[str, Any]] = {}
        skipped = 0
        walk = _Walk(
            loaded, plane, every_series, left_out, earlier, asked, overwrite, bool(reports)
        )
        with closing(one_ahead(walk.scans(inputs))) as coming:
            for scan in coming:
                try:
                    if isinstance(scan.found, InputError):
                        raise scan.found
                    if scan.found is None:
                        record = finished.get(scan.key)
                        if record is None:
                            continue  # it failed, which was reported
                    elif isinstance(scan.found, _Finished):
                        record = scan.found.kept.record
                        if reports is not None:
                            reports.add(scan.found.report(loaded, flagging))
                        skipped += 1
                    else:
                        with one_source(scan.found.path, "could not be scored"):
                            record = score_scan(
                                scan.found,
                                loaded,
                                out / scan.name,
                                threshold=flagging.threshold,
                                fpr=flagging.share,
                                settings=flagging.settings,
                                reported=None if reports is None else reports.add,
                                overwrite=scan.replaces,
                                run={"scan": scan.key, "settings": asked, "command": command},
                                progress=progress,
                                **options,
                            )
                    why = _derive(derived, scan.files, record)
                    if why is not None:
                        without_bids.append(f"{record['series']} has no BIDS files: {why}.")
                except (InputError, MemoryShortage) as error:
                    errors.append(error)
                    if reports is not None:
                        reports.fail(error, inputs.index(scan.source), scan.name)
                    continue
                finally:
                    scan.found = None
                finished[scan.key] = record
                scans.append({"input": str(scan.source), **flagging.judged(record)})
        if not scans:
            raise errors[0]
        written = {} if reports is None else reports.write(left_out)
    return {
        "model": loaded.name,
        "model_sha256": loaded.sha256,
        "backbone": loaded.backbone.source,
        "engine": loaded.backbone.engine,
        "threshold": flagging.threshold,
        "unit": loaded.unit,
        "fpr": flagging.share,
        "calibration": flagging.note(loaded),
        "scans": scans,
        "skipped": skipped,
        "failed": [str(error) for error in errors],
        "left_out": left_out,
        "report": written.get("report"),
        "report_pdf": written.get("report_pdf"),
        **({"bids": str(out / _BIDS), "without_bids": without_bids} if bids else {}),
    }


def _derive(
    derived: BidsDerivatives | None, files: Sequence[Path], record: Mapping[str, Any]
) -> str | None:
    """Write BIDS files of a scored scan; returns the reason if there are none."""
    try:
        return None if derived is None else derived.add(files, Path(record["folder"]))
    except InputError as error:
        return str(error).rstrip(".")


def _hashed(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Finished:
    """A scan that needs no scoring, with its voxels only if a report needs them."""

    kept: StoredResults
    volume: Scan | None

    def report(self, model: NormativeModel, flagging: Flagging) -> ScanReport:
        assert self.volume is not None
        return kept_report(
            self.kept.provenance,
            self.kept.folder / OUTPUT_FILES["nll"],
            self.volume,
            model,
            threshold=flagging.threshold,
            fpr=flagging.share,
            settings=flagging.settings,
        )


@dataclass
class _Next:
    """What to do with a scan.

    Parameters
    ----------
    source : Path
        The input in which it was found.
    found : Scan, _Finished, InputError or None
        Its voxels, to be scored; its results; or its error. None for a duplicate in this run.
    name : str
        Name of its folder; "" if it has none.
    key : str
        See `scan_sha256`.
    files : tuple of Path
        Files of the scan.
    replaces : bool
        Whether to replace the results in its folder.
    """

    source: Path
    found: Scan | _Finished | InputError | None = None
    name: str = ""
    key: str = ""
    files: tuple[Path, ...] = ()
    replaces: bool = False


@dataclass(frozen=True)
class _Walk:
    """Finds the scans of the inputs and reads them one by one."""

    model: NormativeModel
    plane: SlicePlane | None
    every_series: bool
    left_out: list[str]
    earlier: EarlierResults
    asked: str
    overwrite: bool
    reports: bool

    def scans(self, inputs: Sequence[Path]) -> Iterator[_Next]:
        """Iterate over them; for finished scans only what a report needs is read."""
        seen: set[str] = set()
        for source in inputs:
            try:
                found = find_scans(source)
            except InputError as error:
                yield _Next(source, error)
                continue
            for unread in found.errors:
                yield _Next(source, unread)
            for scan in scans_to_score(found.scans, self.every_series, self.left_out):
                coming = _Next(source, name=scan_folder_name(scan), files=scan.series.files)
                try:
                    self._look_up(coming, scan, seen)
                except InputError as error:
                    coming.found = error
                yield coming
                del coming

    def _look_up(self, coming: _Next, scan: Scan, seen: set[str]) -> None:
        coming.key = scan_sha256(scan)
        if coming.key in seen:
            return
        seen.add(coming.key)
        kept = self.earlier.of(coming.key)
        whole = kept is not None and kept.is_finished(self.asked, overwrite=self.overwrite)
        volume = None
        if not whole or self.reports:
            volume = self.model.cut(scan.read(), self.plane)
        if kept is not None and whole:
            coming.found = _Finished(kept, volume)
            return
        assert volume is not None
        coming.found = volume
        coming.name = self.earlier.name_for(volume, coming.key, overwrite=self.overwrite)
        coming.replaces = self.overwrite or kept is not None
        if not coming.replaces:
            refuse_earlier(self.earlier.out / coming.name)


def scans_to_score(scans: Sequence[Scan], every_series: bool, left_out: list[str]) -> list[Scan]:
    """Choose the original scans of an input; all if there is none, or if all are requested.

    Parameters
    ----------
    scans : sequence of Scan
        The scans of the input.
    every_series : bool
        Whether localizers and derived series are scored beside original ones.
    left_out : list of str
        Gets one sentence for each excluded scan.
    """
    original = [scan for scan in scans if scan.role == "original"]
    if every_series or not original:
        return list(scans)
    left_out += [
        f"{scan.series.label} is {'a localizer' if scan.role == 'localizer' else 'derived'} and "
        "was excluded."
        for scan in scans
        if scan.role != "original"
    ]
    return original


def score_scan(
    volume: Scan,
    model: NormativeModel,
    folder: Path,
    *,
    threshold: float,
    fpr: float | None = None,
    settings: MaskSettings | None = None,
    montage: bool = True,
    keep_uids: bool = False,
    dicom: bool | Sequence[str] = False,
    de_identify: bool = False,
    png: bool = False,
    png_heat: bool = False,
    report: bool = False,
    pdf: Paper | None = None,
    seg_nrrd: bool = False,
    itksnap: bool = False,
    reported: Callable[[ScanReport], None] | None = None,
    overwrite: bool = False,
    run: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score one volume and write the results.

    Parameters
    ----------
    volume : Scan
        The scan, with the slices to be scored.
    model : NormativeModel
        The model.
    folder : Path
        See `write_scan_outputs`, as for ``threshold``, ``fpr``, ``settings``, ``keep_uids``,
        ``dicom``, ``de_identify``, ``png``, ``png_heat``, ``report``, ``pdf``, ``seg_nrrd``,
        ``itksnap``, ``overwrite`` and ``run``.
    montage : bool
        Also write ``montage.png`` with the highest-scoring slices.
    reported : callable, optional
        Called with the contents of ``report.html`` or ``report.pdf``.
    progress : callable, optional
        Called with (series label, slices done, slices in all).

    Returns
    -------
    dict
        Series label, folder, number of findings, flagged voxels, the highest image score, the
        scan's p-value and the number of patients it is based on (None if there is none), why it is
        outside the training domain, the warnings of the scan and of its outputs, and the files
        written.
    """
    label = volume.series.label

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(label, done, total)

    shift = domain_shift(model, volume)
    score = model.score_volume(volume, progress=tell, plane=AS_ACQUIRED)
    score.count_unseen((settings or MaskSettings()).unseen_slices)
    outputs = write_scan_outputs(
        folder,
        volume,
        score,
        model,
        threshold=threshold,
        fpr=fpr,
        settings=settings,
        keep_uids=keep_uids,
        overwrite=overwrite,
        montage_too=montage,
        dicom=dicom,
        de_identify=de_identify,
        png=png,
        png_heat=png_heat,
        report=report,
        pdf=pdf,
        seg_nrrd=seg_nrrd,
        itksnap=itksnap,
        shift=shift,
        run=run,
    )
    if reported is not None and outputs.report is not None:
        reported(outputs.report)
    return in_folder(outputs.summary, folder)
