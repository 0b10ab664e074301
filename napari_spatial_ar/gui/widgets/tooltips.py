"""Every tooltip of the docks and dialogs, in one table.

A text is one to three sentences that start with a capital; the last has no full stop. What is in
braces is filled in where the tooltip is shown. docs/reference/controls.md is made of this table by
docs/make_controls.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from textwrap import fill
from types import MappingProxyType

__all__ = ["TOOLTIPS", "as_tooltip", "tooltip"]

# Letters in a line: a wider tooltip covers what it explains.
_WIDTH = 72

_DOCKS = {
    "docks.research_use": "This software is no medical device. Do not base decisions on it",
    "docks.heading": "Show or hide this part of the dock: {title}",
    "docks.models": "See, rename, copy, delete, hand on and compare models",
}

_REVIEW = {
    "scan.scan": "The scan to review: an image layer of this viewer",
    "scan.open_scan": "Open DICOM, NIfTI, OCT or picture files; you can also drop them here",
    "scan.worklist": "A folder of scans: scored in the background, read one after the other",
    "scan.cancel": "Stop looking or reading; what is open stays",
    "scan.planes": "Show {plane} slices ({key})",
    "scan.planes.of_a_scan": (
        "Show {plane} slices ({key}). It does not change what the model sees: {seen} slices, as "
        "acquired, unless another plane is chosen below the model"
    ),
    "scan.display_window": (
        "Grey values that are drawn black and white. The display alone: what the model sees is a "
        "setting of the model"
    ),
    "model.model": "The normative model: what normal looks like",
    "model.slices": (
        "Slices that the model sees: those that were acquired, or of another plane, for a scan "
        "with voxels of about the same size in all directions"
    ),
    "model.why": "Show in full sentences what is unlike; press again to hide them",
    "score.score_this_slice": "Score the slice in view",
    "score.score_whole_volume": "Score every slice that is not scored yet, from the one in view",
    "score.progress": "Slices scored",
    "score.cancel": (
        "Stop scoring and keep what is scored; of a scan that waits: let it wait no longer"
    ),
    "shelf.bring_back": "Open it again with its results and all that was done to them by hand",
    "shelf.discard": "Let it go for good",
    "threshold.histogram": (
        "How much of this scan's tissue has which score (bars), and of held-out normal tissue "
        "(line, as far as it was calibrated). Drag the threshold, or use the arrow keys"
    ),
    "threshold.unit": "What the slider counts in; the threshold stays the same",
    "threshold.slider": "Tissue whose score lies above this value ({unit}) is in the mask",
    "threshold.smallest_region": "Connected regions smaller than this are left out of the mask",
    "threshold.show_highest": "Go to the slice with the highest score",
    "mask.advanced": "Hysteresis, smoothing, smallest area, body and region",
    "mask.only_around_scores_above": (
        "Hysteresis: a region is kept only if it holds a voxel above this higher threshold"
    ),
    "mask.higher_threshold": "The higher threshold, in the unit of the slider",
    "mask.smoothing": (
        "Leaves out parts of the mask, slice by slice, in which a disc of this radius has no "
        "room: thin bridges, specks. Nothing is added"
    ),
    "mask.smallest_area": "In each slice, connected regions smaller than this are left out",
    "mask.within": (
        "Keep the mask within polygons of a Shapes layer, each in the slice that it is drawn in, "
        "or within the labels of a Labels layer"
    ),
    "mask.fill_holes": "Adds what the mask encloses, slice by slice",
    "mask.body_only": "Leaves out what lies in the air around the body",
    "findings.table": "Keys: N next, P previous, K keep, R reject, U unsure",
    "findings.columns.rank": "Rank: 1 for the highest peak score",
    "findings.columns.status": (
        "Keep (K), reject (R) or unsure (U). What is rejected is left out of exported masks"
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
        "In how many of the normal patients of the calibration something scores as high as the "
        "peak; \u2264 where an older model does not say exactly"
    ),
    "findings.columns.comment": (
        "Double-click to write. It goes into exported tables: name no patient"
    ),
    "findings.previous": "Previous flagged region (P, or Shift+N)",
    "findings.next": "Next flagged region (N)",
    "findings.keep": "Keep this region as a finding (K)",
    "findings.unsure": "Mark this region as unsure (U)",
    "findings.reject": "Leave this region out of exported masks (R); R again takes it back",
    "findings.forget_strokes": "Undo all that was painted and erased on the mask by hand",
    "results.both": "Heatmap, and the mask as an outline (H goes to the next)",
    "results.outline": "The mask as an outline (H goes to the next)",
    "results.fill": "The mask filled, seen through (H goes to the next)",
    "results.heatmap": "The heatmap alone (H goes to the next)",
    "results.off": "The scan alone (H goes to the next)",
    "results.colours": "Colours of the heatmap; low scores are seen through in all of them",
    "results.opacity": "Opacity of the heatmap",
    "results.side_by_side": (
        "The scan alone left, with its results right, and back (G). Both have the same slice, "
        "zoom and window"
    ),
    "results.keys": "Table of keyboard shortcuts",
    "explain.heading": "Why it scores as it does, and the normal patches most like it (Q)",
    "explain.freeze": "Stay with this patch, or follow the mouse again (Q)",
    "explain.similar_normal_patches": "Search the slices that the model learned from",
    "explain.similar_normal_patches.unknown": (
        "The normal slices that this model learned from are not known on this machine: choose "
        "their folder to see the ones most like this patch"
    ),
    "explain.folder": "Choose the folder that the model was fitted on",
    "explain.progress": "Normal slices gone through",
    "explain.cancel": "End the search",
    "export.export_mask": "Save the mask on the scan's own grid",
    "export.export_all": "Save heatmap, mask, flagged regions and provenance in a folder",
    "export.with_dicom": (
        "Also write mask and flagged regions as DICOM segmentations and the heatmap as DICOM "
        "parametric map, for a PACS: they hold the patient's identity, copied from the scan"
    ),
    "export.with_dicom.unavailable": "Only for scans read from DICOM files",
    "export.with_pictures": "Also write PNG pictures of the slices with the mask's outline",
    "export.slicer": (
        "Also write the flagged regions with names and colours as 3D Slicer reads them (.seg.nrrd)"
    ),
    "export.itk_snap": (
        "Also write names and colours of the flagged regions as ITK-SNAP reads them, for "
        "findings.nii.gz"
    ),
    "export.export_report": (
        "Save pictures, flagged regions and all figures of this scan in one file: HTML or PDF"
    ),
    "export.open_reports": "Show a report as soon as it is written",
}

_WORKLIST = {
    "worklist.folder": "Choose a folder of scans, or drop one here",
    "worklist.start": "Score the scans that are left",
    "worklist.pause": "Rest after this slice",
    "worklist.cancel": "Stop scoring after this slice; what is scored is kept",
    "worklist.try_again": "Read and score again what failed",
    "worklist.progress": "Slices scored, of all scans",
    "worklist.next_unread": "Open the next scan that nobody has read, in the order shown (W)",
    "worklist.done": "Mark the chosen scan as done (D); D again takes it back",
    "worklist.report": (
        "Save one report of all scans of the list: their scores, flagged regions and pictures, in "
        "one file: HTML or PDF"
    ),
    "worklist.table": "Double click or Enter opens a scan; a click on a heading sorts",
    "worklist.columns.scan": "The series, as its layer will be called",
    "worklist.columns.description": "What the series or its file is called: on this screen only",
    "worklist.columns.slices": "Slices of the scan",
    "worklist.columns.score": (
        "Score of the scan: the 95th percentile of its slices' scores, in the model's unit"
    ),
    "worklist.columns.p": (
        "How unusual the scan is among the normal patients that the model was calibrated on"
    ),
    "worklist.columns.findings": (
        "Regions above the threshold when the scan was scored or looked at last"
    ),
    "worklist.columns.status": "Waiting, scoring, scored, or why it failed",
    "worklist.columns.read": "Unread, seen (opened), done",
}

_TRAINING = {
    "normals.folder": "Scans or slices of healthy people; drop one or more folders here",
    "normals.choose": "Choose the folder of normal scans",
    "normals.look_through": "Count slices and patients, and see what is left out and why",
    "normals.series": "Choose which series the model learns from",
    "normals.progress": "Files looked at",
    "normals.picture": "Series {label}, {kind}, patient {patient}: {slices} slices",
    "slices.plane": (
        "Slices that volumes are cut into, without interpolation. Pictures have no plane, and are "
        "left out where one is chosen"
    ),
    "slices.part_of_stack": (
        "Part of each volume's stack, in percent of its slices, both ends included: from inferior "
        "to superior, anterior to posterior, or right to left"
    ),
    "slices.least_body": "Leave out slices of which body covers less than this",
    "slices.calibration": (
        "Share of the slices, by whole patients, to calibrate thresholds on and for nothing else. "
        "0: on the patients for validation, which may have chosen the best epoch"
    ),
    "slices.folds": (
        "Where few patients are held out: calibrate on those of training too, dealt into so many "
        "folds, each scored by what is learned from the others. As many fits more"
    ),
    "slices.first": "First slice used of one of the volumes",
    "slices.last": "Last slice used of one of the volumes",
    "training.modality": "What kind of scans; chooses the grey window",
    "training.model_sees": (
        "Grey values that the model tells apart, saved in the model. How scans are drawn is "
        "another setting, in the Review dock"
    ),
    "training.model_sees.usual": "Usual: {window}",
    "training.model_sees.lower": "Lower end of the window: everything beyond it looks the same",
    "training.model_sees.upper": "Upper end of the window: everything beyond it looks the same",
    "training.backbone": (
        "The frozen network whose embeddings are modelled; \u2713: its weights are here"
    ),
    "training.method": "How the model learns what is normal",
    "training.method.listed": "Measures {summary}. After {reference}",
    "training.method.chosen": "After {reference}",
    "training.options": "Show or hide what else can be set for this method",
    "training.defaults": "Set every option of this method back",
    "training.seed": "The same seed and settings give the same model",
    "training.name": "The model's name: a folder of this name is made for it",
    "training.load_recipe": "Take up the settings of a saved file",
    "training.save_recipe": (
        "Write these settings, folders included, to a file: "
        "'napari-spatial-ar fit --recipe FILE' makes the same model"
    ),
    "training.drop_these": "Set what stands above back to its defaults",
    "fit.go_on_with_the_unfinished_fit": (
        "Take up its settings and start; it ends with the same weights as if it had not been "
        "interrupted"
    ),
    "fit.discard": "Offer it no more; what it has embedded stays for other fits",
    "fit.start": "Fit the model; goes on where a cancelled fit with these settings stopped",
    "fit.how_long": "Measure for a few seconds how long the fit will take on this machine",
    "fit.pause": "Wait after the step at hand, without computing",
    "fit.cancel": "Stop; what is done is kept for the next start",
    "fit.progress": "Progress of the stage below",
    "fit.most_surprising_training_scans": (
        "After a fit: scans that are least like the others, to look at before the model is trusted"
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
    "series.table": "Tick what the model learns from; patients are named by a code",
    "series.all": "Tick every series",
    "series.none": "Tick no series",
    "series.only_one_plane": (
        "Untick what was acquired in another plane than {plane}, most series'"
    ),
    "suspects.table": "Patients are named by a code; slices are counted from 1",
    "suspects.picture": "The scan's most surprising slice, and where it departs from normal",
    "suspects.fit_again_without_these": "Take the ticked scans out and start the fit anew",
    "models.table": "Your models and those released with the package",
    "models.card": "What the model is for, what it learned from, and its limits",
    "models.rename": "Give the chosen model another name (F2)",
    "models.duplicate": "Make a copy of the chosen model",
    "models.delete": "Move the chosen model to the trash (Del)",
    "models.rename_or_delete.released": (
        "It came with the package and stays as it is: duplicate it to change the copy"
    ),
    "models.undo": "Bring back the model that was deleted last",
    "models.restore": "Bring back one of the deleted models",
    "models.import": (
        "Take in a model that was exported, the model.safetensors of one, or a checkpoint (.pth) "
        "of the paper's authors"
    ),
    "models.export": "Write the chosen model with its card as one file, to be handed on",
    "models.check": (
        "Read the chosen model whole, and compare it and its backbone's weights with their sha256"
    ),
    "models.calibrate": (
        "Measure the chosen model on other normal scans, from which its thresholds get their "
        "meaning; of a released model, a copy"
    ),
    "models.stop": "Stop calibrating; the model stays as it was",
    "models.compare_two_models": (
        "Heatmaps of two models side by side, on the scan chosen in the Review dock"
    ),
    "comparison.first": "The first model",
    "comparison.second": "The second model",
    "comparison.compare": "Score the whole scan with both models",
    "comparison.cancel": "Stop after the slice at hand",
    "comparison.progress": "Slices scored by the model that is at work",
    "comparison.save_picture": "Write the picture as PNG; it names no patient",
    "checkpoint.name": "Name of the model",
    "checkpoint.modality": "What it was trained on; the file does not say it",
    "checkpoint.backbone": (
        "Whose embeddings it predicts, of those with as many channels; \u2713: its weights are on "
        "this machine"
    ),
    "checkpoint.dilations": (
        "Its --dilation_schedule: 4 for all convolutions, or 1-2-4-8, the last one counting for "
        "the last two"
    ),
    "checkpoint.context": "Which patches predict a patch; the file says it by its masks",
    "checkpoint.size": "Side that images were resized to, its --img_size",
    "checkpoint.import": "Make a model of it; it has no calibration yet",
    "weights.get_weights": "Fetch weights of a backbone: licence and size are shown first",
    "weights.add_file": (
        "Add weights that are on this machine: Meta's .pth, safetensors of timm, transformers or "
        "open_clip, or a folder of one of these"
    ),
    "weights.backbone": "Whose weights are fetched; those that are here already are not listed",
    "weights.token": (
        "An access token of the model hub, from the settings of your account there. It is used "
        "for this download and then forgotten, unless it is to be kept"
    ),
    "weights.keep_token": (
        "Hand the token to the hub's own client, which keeps it for all programs of this user"
    ),
    "weights.progress": "How much has arrived",
    "weights.get": "Accept the licence and fetch the weights",
    "weights.stop": "Stop fetching; what has arrived is kept",
    "weights.path": "The file or folder of weights",
    "weights.choose_file": "Choose a file of weights",
    "weights.choose_folder": (
        "Choose a folder of transformers, timm or open_clip, also one in the cache of the hub's "
        "client"
    ),
    "weights.kind": (
        "Which backbone they are of. Whether they fit is seen before they are taken in"
    ),
    "weights.name": "Name of the backbone, by which models that are fitted with it know it",
    "weights.licence": "Licence of the weights, shown in lists; it may be left empty",
    "weights.heads": "Attention heads of a block; the weights do not say it",
    "weights.activation": "Activation of the MLPs: quick_gelu in OpenAI's CLIP, gelu in most",
    "weights.mean": (
        "Mean of the normalisation that it was trained with, of grey values in 0..1; of ImageNet: "
        "{usual}"
    ),
    "weights.std": (
        "Standard deviation of the normalisation that it was trained with; of ImageNet: {usual}"
    ),
    "weights.add": "Read the weights, see that they fit, and copy them to the user's folder",
    "keys.table": "They work in the dock, but in text fields, and on the canvas",
}

#: Texts by dotted key: the part of a dock or the dialog, the control, and its state where there are
#: several texts.
TOOLTIPS: Mapping[str, str] = MappingProxyType(
    {**_DOCKS, **_REVIEW, **_WORKLIST, **_TRAINING, **_DIALOGS}
)


def tooltip(key: str, /, **values: object) -> str:
    """Return the tooltip of a control, in lines that Qt would not break by itself.

    Parameters
    ----------
    key : str
        Dotted name in the table, such as ``"threshold.slider"``.
    **values : object
        What stands in the text's braces.

    Raises
    ------
    KeyError
        If the table has no such key, or a value that its text needs is not given; it names either.
    """
    return fill(TOOLTIPS[key].format(**values), _WIDTH)


def as_tooltip(text: str) -> str:
    """Make a tooltip of a text of any length, of which Qt takes nothing as markup."""
    lines = escape(text).replace("\n", "<br>")
    return f"<qt>{lines}</qt>" if text else ""
