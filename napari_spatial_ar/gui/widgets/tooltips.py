"""Every tooltip of the docks and dialogs, in one table.

A text is one to three sentences that start with a capital; the last has no full stop. Names in
braces are filled in when the tooltip is shown. docs/make_controls.py generates
docs/reference/controls.md from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from textwrap import fill
from types import MappingProxyType

__all__ = ["TOOLTIPS", "as_tooltip", "tooltip"]

# Letters per line: a wider tooltip covers what it explains.
_WIDTH = 72

_DOCKS = {
    "docks.research_use": "This software is not a medical device. Do not base decisions on it",
    "docks.heading": "Show or hide this part of the dock: {title}",
    "docks.models": "View, rename, copy, delete, share and compare models",
}

_REVIEW = {
    "scan.scan": "The scan to review: an image layer of this viewer",
    "scan.open_scan": "Open DICOM, NIfTI, OCT or image files; you can also drop them here",
    "scan.worklist": "A folder of scans: scored in the background, read one after the other",
    "scan.cancel": "Stop searching or reading; open scans stay open",
    "scan.planes": "Show {plane} slices ({key})",
    "scan.planes.of_a_scan": (
        "Show {plane} slices ({key}). The model still scores {seen} slices, as acquired, unless "
        "another plane is chosen below the model"
    ),
    "scan.display_window": (
        "Intensities shown as black and as white. Affects the display only; the model has its "
        "own window"
    ),
    "model.model": "The normative model: what normal looks like",
    "model.slices": (
        "Slices that the model scores: as acquired, or of another plane, for scans with voxels of "
        "about the same size in all directions"
    ),
    "model.why": "Show how this scan differs from the training data; press again to hide",
    "score.score_this_slice": "Score the slice in view",
    "score.score_whole_volume": "Score every slice that is not scored yet, from the one in view",
    "score.progress": "Slices scored",
    "score.cancel": (
        "Stop scoring and keep the scores so far, or remove a waiting scan from the queue"
    ),
    "deleted_scans.restore": "Reopen the scan with its results and your edits",
    "deleted_scans.discard": "Discard permanently",
    "threshold.histogram": (
        "Distribution of the scores of this scan's tissue (bars) and of held-out normal tissue "
        "(line, in the calibrated range). Drag the threshold, or use the arrow keys"
    ),
    "threshold.more": "Show or hide the histogram, the slider's unit and how the mask is made",
    "threshold.unit": "Unit of the slider; the threshold itself does not change",
    "threshold.slider": "Tissue with a score above this value ({unit}) is in the mask",
    "threshold.minimum_size": "Connected regions smaller than this are removed from the mask",
    "threshold.show_highest": "Go to the slice with the highest score",
    "mask.advanced": "Hysteresis, smoothing, minimum area, body and region",
    "mask.only_around_scores_above": (
        "Hysteresis: a region is kept only if it has a voxel above this higher threshold"
    ),
    "mask.higher_threshold": "The higher threshold, in the unit of the slider",
    "mask.smoothing": (
        "Removes parts of the mask narrower than a disc of this radius, slice by slice "
        "(opening): thin bridges, specks. Nothing is added"
    ),
    "mask.minimum_area": "In each slice, connected regions smaller than this are removed",
    "mask.within": (
        "Restrict the mask to polygons of a Shapes layer, each in the slice in which it was drawn, "
        "or to the labels of a Labels layer"
    ),
    "mask.fill_holes": "Fills holes in the mask, slice by slice",
    "mask.body_only": "Excludes the air around the body",
    "findings.table": "Keys: N next, P previous, K keep, R reject, U unsure",
    "findings.columns.rank": "Rank: 1 for the highest peak score",
    "findings.columns.status": (
        "Keep (K), reject (R) or unsure (U). Rejected regions are excluded from exported masks"
    ),
    "findings.columns.side": (
        "The patient's side: left, right or within 5 mm of the middle of the scan"
    ),
    "findings.columns.slices": (
        "Slices, counted from 1 in the order of the file, as on the canvas; exported tables count "
        "from 0"
    ),
    "findings.columns.volume": "Volume; 1 ml is 1000 µl",
    "findings.columns.diameter": "Longest diameter within an acquired slice, in mm",
    "findings.columns.peak": "Highest score, in the unit of the threshold",
    "findings.columns.mean": "Mean score, in the unit of the threshold",
    "findings.columns.normals": (
        "Number of normal patients of the calibration in whom something scores as high as the "
        "peak; \u2264: upper limit, with an older model"
    ),
    "findings.columns.comment": (
        "Double-click to write. Comments appear in exported tables: do not name the patient"
    ),
    "findings.previous": "Previous flagged region (P, or Shift+N)",
    "findings.next": "Next flagged region (N)",
    "findings.keep": "Keep this region as a finding (K)",
    "findings.unsure": "Mark this region as unsure (U)",
    "findings.reject": "Exclude this region from exported masks (R); press R again to include it",
    "findings.refine": (
        "Fit the outline of this region to the edges of the image (F); press F again for its "
        "earlier outline, or Ctrl+Z to undo"
    ),
    "findings.refine_all": (
        "Fit the outlines of all regions that are not rejected to the edges of the image (Shift+F)"
    ),
    "findings.remove_brush_edits": "Undo all manual edits of the mask, and refined outlines",
    "results.both": "Heatmap, and the mask as an outline (H for the next)",
    "results.outline": "The mask as an outline (H for the next)",
    "results.fill": "The mask filled, semi-transparent (H for the next)",
    "results.heatmap": "The heatmap alone (H for the next)",
    "results.off": "The scan alone (H for the next)",
    "results.unseen_slices": (
        "Draw and flag also in slices unlike those the model was trained on, which are grey "
        "otherwise and left out of flagged regions, p-values and scores of scans"
    ),
    "results.part": (
        "What the heatmap shows: the score of the whole method, or one part of it alone, with its "
        "own unit and threshold"
    ),
    "results.colours": "Colours of the heatmap; low scores are transparent in all of them",
    "results.opacity": "Opacity of the heatmap",
    "results.side_by_side": (
        "The scan alone on the left, with its results on the right, or back to one view (G). Both "
        "have the same slice, zoom and window"
    ),
    "results.keys": "Table of keyboard shortcuts",
    "explain.heading": "Why it scores as it does, and the most similar normal patches (Q)",
    "explain.freeze": "Freeze this patch, or follow the mouse again (Q)",
    "explain.similar_normal_patches": "Search the slices that the model was trained on",
    "explain.similar_normal_patches.unknown": (
        "The normal slices that this model was trained on were not found on this machine: choose "
        "their folder to see those most similar to this patch"
    ),
    "explain.folder": "Choose the folder that the model was fitted on",
    "explain.progress": "Normal slices searched",
    "explain.cancel": "Stop the search",
    "export.export_mask": "Save the mask on the scan's own grid",
    "export.export_all": "Save heatmap, mask, flagged regions and provenance in a folder",
    "export.with_dicom": (
        "Also write DICOM objects for a PACS, by default segmentations and the heatmap: they "
        "contain the patient's identity, copied from the scan"
    ),
    "export.with_dicom.unavailable": "Only for scans read from DICOM files",
    "export.dicom_objects": "Choose the DICOM objects to be written",
    "export.segmentations": (
        "Mask and flagged regions as DICOM SEG: one segment, and one for each region"
    ),
    "export.score_map": "The heatmap as DICOM Parametric Map",
    "export.structured_report": (
        "Flagged regions with their measurements as DICOM SR (TID 1500); brings the segmentations, "
        "to which it refers. Rejected regions are not in it"
    ),
    "export.captures": (
        "Flagged slices as DICOM secondary captures with the outlines burnt in, for viewers that "
        "show no SEG"
    ),
    "export.outlines": (
        "Outlines that a viewer draws over the scan: a DICOM grayscale softcopy presentation state"
    ),
    "export.de_identify": (
        "For research: without the patient's identity (PS3.15 basic profile), with other UIDs"
    ),
    "export.signed_by": (
        "Your name (family^given) as observer in the structured report; not stored. Empty: not "
        "signed"
    ),
    "export.with_pictures": "Also write PNG images of the slices with the mask's outline",
    "export.slicer": (
        "Also write the flagged regions with names and colours for 3D Slicer (.seg.nrrd)"
    ),
    "export.itk_snap": (
        "Also write names and colours of the flagged regions for ITK-SNAP, for findings.nii.gz"
    ),
    "export.send": "Send results of this scan to an archive (PACS), as DICOM objects",
    "export.export_report": (
        "Save images, flagged regions and all figures of this scan in one file: HTML or PDF"
    ),
    "export.open_reports": "Show a report as soon as it is written",
}

_WORKLIST = {
    "worklist.folder": "Choose a folder of scans, or drop one here",
    "worklist.archive": "Find scans in an archive (PACS), to open one or to list them all here",
    "worklist.refresh": "Ask the archive again, with the same query",
    "worklist.start": "Score the remaining scans",
    "worklist.pause": "Pause after this slice",
    "worklist.cancel": "Stop scoring after this slice; the scores so far are kept",
    "worklist.retry": "Read and score failed scans again",
    "worklist.progress": "Slices scored, of all scans",
    "worklist.next_unread": "Open the next unread scan in the order shown (W)",
    "worklist.done": "Mark the chosen scan as done (D); D again takes it back",
    "worklist.report": (
        "Save one report on all scans of the list: their scores, flagged regions and images, in "
        "one file: HTML or PDF"
    ),
    "worklist.table": "Double click or Enter opens a scan; a click on a heading sorts",
    "worklist.columns.scan": "The series, as its layer will be named",
    "worklist.columns.description": (
        "Description of the series, or its file name: only on this screen"
    ),
    "worklist.columns.slices": "Slices of the scan",
    "worklist.columns.score": (
        "Score of the scan: the 95th percentile of its slices' scores, in the model's unit"
    ),
    "worklist.columns.p": (
        "How unusual the scan is among the normal patients that the model was calibrated on"
    ),
    "worklist.columns.findings": (
        "Regions above the threshold when the scan was last scored or opened"
    ),
    "worklist.columns.status": "Waiting, scoring, scored, or why it failed",
    "worklist.columns.read": "Unread, seen (opened), done",
}

_TRAINING = {
    "normals.folder": "Scans or slices of healthy people; drop one or more folders here",
    "normals.choose": "Choose the folder of normal scans",
    "normals.check_folders": "Count slices and patients, and list what is excluded and why",
    "normals.series": "Choose which series the model learns from",
    "normals.progress": "Files read",
    "normals.picture": "Series {label}, {kind}, patient {patient}: {slices} slices",
    "slices.plane": (
        "Plane along which volumes are sliced, without interpolation. Images have no plane, and "
        "are excluded if one is chosen"
    ),
    "slices.part_of_stack": (
        "Part of each volume's stack, in percent of its slices, both ends included: from inferior "
        "to superior, anterior to posterior, or right to left"
    ),
    "slices.minimum_body_area": "Exclude slices in which the body covers less than this share",
    "slices.calibration": (
        "Share of the slices, by patient, used only to calibrate thresholds. 0: calibrate on the "
        "validation patients, which may have chosen the best epoch"
    ),
    "slices.folds": (
        "With few held-out patients: also calibrate on the training patients by cross-validation "
        "with this many folds. Needs that many more fits"
    ),
    "slices.first": "First slice used of one of the volumes",
    "slices.last": "Last slice used of one of the volumes",
    "training.modality": "Modality of the scans; chooses the window",
    "training.model_window": (
        "Intensity range that the model distinguishes; saved in the model. It is separate from "
        "the display window in the Review dock"
    ),
    "training.model_window.usual": "Usual: {window}",
    "training.model_window.lower": "Lower end of the window: everything below it looks the same",
    "training.model_window.upper": "Upper end of the window: everything above it looks the same",
    "training.backbone": (
        "The frozen network whose embeddings are modelled; \u2713: its weights are installed"
    ),
    "training.method": "How the model learns what is normal",
    "training.method.listed": "Measures {summary}. After {reference}",
    "training.method.chosen": "After {reference}",
    "training.options": "Show or hide the other options of this method",
    "training.defaults": "Reset all options of this method",
    "training.skip_air": (
        "Nothing is embedded, learned or scored where a patch and those around it hold no body, "
        "which saves up to half of the time"
    ),
    "training.seed": "The same seed and settings give the same model",
    "training.name": "The model's name: a folder with this name is created for it",
    "training.load_recipe": "Load settings from a file",
    "training.save_recipe": (
        "Write these settings, folders included, to a file: "
        "'napari-spatial-ar fit --recipe FILE' makes the same model"
    ),
    "training.reset": "Reset the settings above to their defaults",
    "fit.resume_the_unfinished_fit": (
        "Restore its settings and resume; the weights are the same as without the interruption"
    ),
    "fit.discard": "Remove this offer; stored embeddings remain available to other fits",
    "fit.start": "Fit the model; resumes a cancelled fit with these settings",
    "fit.estimate_time": "Measure for a few seconds how long the fit will take on this machine",
    "fit.pause": "Pause after the current step",
    "fit.cancel": "Stop; progress is kept for the next run",
    "fit.progress": "Progress of the stage below",
    "fit.training_outliers": (
        "After a fit: the training scans least like the others. Check them before relying on the "
        "model"
    ),
    "fit.loss": (
        "Mean loss of each epoch in nats per dimension; the model of the best validation epoch is "
        "kept"
    ),
}

_DIALOGS = {
    "chooser.table": "Tick what to open; a double click opens one scan alone",
    "chooser.table.unreadable": "The middle slice cannot be read",
    "chooser.all": "Tick every scan",
    "chooser.none": "Tick no scan",
    "chooser.worklist_of_all": "Score every scan in the background, and read one after the other",
    "series.table": "Tick what the model learns from; patients are identified by a code",
    "series.all": "Tick every series",
    "series.none": "Tick no series",
    "series.only_one_plane": (
        "Untick series acquired in a plane other than {plane}, that of most series"
    ),
    "outliers.table": "Patients are identified by a code; slices are counted from 1",
    "outliers.picture": "The highest-scoring slice of the scan, with its heatmap",
    "outliers.fit_again_without_these": "Exclude the ticked scans and fit again",
    "models.table": "Your models and those released with the package",
    "models.card": "What the model is for, what it was trained on, and its limits",
    "models.rename": "Give the chosen model another name (F2)",
    "models.duplicate": "Make a copy of the chosen model",
    "models.delete": "Move the chosen model to the trash (Del)",
    "models.rename_or_delete.released": (
        "Models released with the package cannot be changed: duplicate it and change the copy"
    ),
    "models.undo": "Restore the model that was deleted last",
    "models.restore": "Restore one of the deleted models",
    "models.import": (
        "Import an exported model, the model.safetensors of one, or a checkpoint (.pth) of the "
        "paper's authors"
    ),
    "models.export": "Save the chosen model and its card as one file, to share it",
    "models.check": "Verify the model and its backbone weights against their SHA-256",
    "models.calibrate": (
        "Calibrate the thresholds of the chosen model on other normal scans; of a released "
        "model, a copy"
    ),
    "models.stop": "Stop calibrating; the model does not change",
    "models.compare_two_models": (
        "Heatmaps of two models side by side, on the scan chosen in the Review dock"
    ),
    "comparison.first": "The first model",
    "comparison.second": "The second model",
    "comparison.compare": "Score the whole scan with both models",
    "comparison.cancel": "Stop after the current slice",
    "comparison.progress": "Slices scored by the current model",
    "comparison.save_picture": "Save the image as PNG, without the patient's name",
    "checkpoint.name": "Name of the model",
    "checkpoint.modality": "What it was trained on; the file does not state it",
    "checkpoint.backbone": (
        "The backbone whose embeddings it predicts, among those with as many channels; \u2713: its "
        "weights are installed"
    ),
    "checkpoint.dilations": (
        "Its --dilation_schedule: 4 for all convolutions, or 1-2-4-8, the last one applying to "
        "the last two"
    ),
    "checkpoint.context": "Which patches predict a patch; known from the file's masks",
    "checkpoint.size": "Side that images were resized to, its --img_size",
    "checkpoint.import": "Create a model from it; it is not calibrated yet",
    "weights.get_weights": "Download weights of a backbone: licence and size are shown first",
    "weights.add_file": (
        "Add weights from this machine: Meta's .pth, safetensors of timm, transformers or "
        "open_clip, or a folder of one of these"
    ),
    "weights.backbone": "The backbone to download; those already installed are not listed",
    "weights.token": (
        "An access token of the model hub, from the settings of your account there. It is used "
        "for this download and then forgotten, unless you choose to store it"
    ),
    "weights.keep_token": (
        "Pass the token to the hub's own client, which stores it for all programs of this user"
    ),
    "weights.progress": "Downloaded so far",
    "weights.get": "Accept the licence and download the weights",
    "weights.stop": "Stop the download; what was downloaded is kept",
    "weights.path": "The file or folder of weights",
    "weights.choose_file": "Choose a file of weights",
    "weights.choose_folder": (
        "Choose a folder of transformers, timm or open_clip, also one in the cache of the hub's "
        "client"
    ),
    "weights.kind": "Backbone that the weights belong to. They are checked before they are added",
    "weights.name": "Name of the backbone; models fitted with it refer to it by this name",
    "weights.licence": "Licence of the weights, shown in lists; optional",
    "weights.heads": "Attention heads of a block; the weights do not state it",
    "weights.activation": "Activation of the MLPs: quick_gelu in OpenAI's CLIP, gelu in most",
    "weights.mean": (
        "Mean of the normalisation that it was trained with, for intensities in 0..1; of ImageNet: "
        "{usual}"
    ),
    "weights.std": (
        "Standard deviation of the normalisation that it was trained with; of ImageNet: {usual}"
    ),
    "weights.add": "Read and check the weights, and copy them to the user's folder",
    "keys.table": "They work in the dock, except in text fields, and on the canvas",
}

_ARCHIVE = {
    "archive.archive": "Archives (PACS) saved by name",
    "archive.add": "Save another archive: its address, and how it is reached",
    "archive.change": "Change the chosen archive: its address, password or certificates",
    "archive.remove": "Forget the chosen archive and its password or token",
    "archive.test": "Check that the archive answers and lets you in (C-ECHO, or a DICOMweb query)",
    "archive.patient_id": "Patient ID; * and ? stand for any letters and any one letter",
    "archive.patient_name": (
        "Beginning of the patient's name, family name first: Doe or Doe, Jane (* and ?: wildcards)"
    ),
    "archive.accession": "Accession number; * and ? are wildcards",
    "archive.date": (
        "Study date, such as 20260131, 20260101-20260131, 20260101-, today or last 7 days"
    ),
    "archive.modality": "Modality of at least one series of the study, as DICOM code",
    "archive.find": "Ask the archive (Enter)",
    "archive.studies": "Studies that match. They are not stored or logged",
    "archive.series": (
        "Series of the chosen study. Ctrl or Shift selects several; a double click opens one"
    ),
    "archive.open": "Retrieve the selected series, and open them as if they had been dropped",
    "archive.worklist_of_all": (
        "Retrieve all series that match and suit the model, and score them in the background"
    ),
    "archive.cancel": "Stop waiting for the archive; what arrived is kept for the next time",
    "archive.empty_cache": "Remove series retrieved from archives from this machine",
    "saved.name": "Name under which the archive is listed",
    "saved.address": (
        "Address of DICOMweb, https://HOST:PORT/dicom-web, or of DIMSE, "
        "dicom://AE-TITLE@HOST:PORT (dicoms:// for TLS)"
    ),
    "saved.own_title": "AE title by which the archive knows this machine; for DIMSE only",
    "saved.user": "User name, if the archive asks for one; kept in the system's keyring",
    "saved.password": "Password, kept in the system's keyring and in no file",
    "saved.token": (
        "Access token in place of user and password, kept in the system's keyring and in no file"
    ),
    "saved.certificates": (
        "For TLS with certificates that this machine does not know, or with one of your own"
    ),
    "saved.authority": "Certificates (PEM) that the archive's must be signed by",
    "saved.certificate": "Your own certificate (PEM), if the archive asks for one",
    "saved.key": "Key of your certificate (PEM), unless it is in the same file",
    "saved.choose_file": "Choose the file",
    "saved.save": "Save the archive",
    "send.send": "Ask once more, then write the objects and send them",
    "send.cancel": "Stop after the object on its way",
    "send.progress": "Objects sent",
    "send.answers": "What the archive answered for each object",
}

#: Texts by dotted key: the part of a dock or the dialog, the control, and its state if there are
#: several texts.
TOOLTIPS: Mapping[str, str] = MappingProxyType(
    {**_DOCKS, **_REVIEW, **_WORKLIST, **_TRAINING, **_DIALOGS, **_ARCHIVE}
)


def tooltip(key: str, /, **values: object) -> str:
    """Return the tooltip of a control, with line breaks that Qt would not insert by itself.

    Parameters
    ----------
    key : str
        Dotted name in the table, such as ``"threshold.slider"``.
    **values : object
        Values for the names in the text's braces.

    Raises
    ------
    KeyError
        If the table has no such key, or a value that its text needs is missing; names either.
    """
    return fill(TOOLTIPS[key].format(**values), _WIDTH)


def as_tooltip(text: str) -> str:
    """Format a text of any length as tooltip, without interpreting markup."""
    lines = escape(text).replace("\n", "<br>")
    return f"<qt>{lines}</qt>" if text else ""
