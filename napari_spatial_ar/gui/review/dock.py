"""The Review dock: from a scan to a mask and findings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import napari.viewer
from napari.layers import Image
from qtpy.QtGui import QDragEnterEvent, QDropEvent

from napari_spatial_ar.gui.archive.asking import ArchiveQuery
from napari_spatial_ar.gui.jobs import TaskHost, report
from napari_spatial_ar.gui.layer_visibility import LayerVisibility
from napari_spatial_ar.gui.open_scan import dropped_paths
from napari_spatial_ar.gui.review.deleted_scans import DeletedScan
from napari_spatial_ar.gui.review.display_panel import DisplayPanel
from napari_spatial_ar.gui.review.explain_panel import ExplainPanel
from napari_spatial_ar.gui.review.export_panel import Exporter, ExportPanel
from napari_spatial_ar.gui.review.findings_panel import FindingsPanel
from napari_spatial_ar.gui.review.mask import MaskController
from napari_spatial_ar.gui.review.model_panel import ModelChoice, ModelList, ModelPanel
from napari_spatial_ar.gui.review.scan_panel import ScanPanel
from napari_spatial_ar.gui.review.scored_layer import Session, same_model
from napari_spatial_ar.gui.review.scoring import DomainShiftCheck, ScanPValue, ScorePanel, Scorer
from napari_spatial_ar.gui.review.threshold_panel import ThresholdPanel
from napari_spatial_ar.gui.viewer import go_to_slice
from napari_spatial_ar.gui.widgets.dock_page import DockPage
from napari_spatial_ar.gui.widgets.forms import row, select_data, stack
from napari_spatial_ar.gui.worklist.panel import WorklistPanel, show_worklist
from napari_spatial_ar.imaging.reading import Found
from napari_spatial_ar.normative.scoring_model import ScoringModel

__all__ = ["ReviewDock"]


class ReviewDock(DockPage):
    """Dock for scoring, thresholding and exporting a scan.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        The viewer the dock belongs to.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer):
        super().__init__(napari_viewer)
        self.tasks = TaskHost(self)
        self._wanted: str | None = None
        self._followed: Session | None = None
        self.worklist: WorklistPanel | None = None
        self.scorer = Scorer(self.viewer, self.tasks, self)
        self._build()
        region = self.threshold.region
        self.masks = MaskController(self.viewer, self.tasks, self, region.inside)
        self.normal_rank = ScanPValue(self.tasks, self)
        self.domain_shift = DomainShiftCheck(self.shift_note, self.tasks)
        self.exporter = Exporter(
            self, self.tasks, self.export, self.threshold, self.masks, self.domain_shift
        )
        weights = self.model_panel.weights
        self.models = ModelList(
            self.model_box,
            self.model_note,
            self.model_panel.about,
            weights,
            self.display_panel.part_box,
            self.tasks,
        )
        self.choice = ModelChoice(self.model_box)
        self._connect()
        self._show_session()

    # ------------------------------------------------------------------ building

    def _build(self) -> None:
        self.scan = ScanPanel(self.viewer, self.tasks)
        self.model_panel = ModelPanel()
        self.model_box, self.plane_box = self.model_panel.box, self.model_panel.plane_box
        self.library_button = self.model_panel.library_button
        self.model_note = self.model_panel.note
        self.scoring = ScorePanel()
        self.shelf, self.shift_note = self.scoring.shelf, self.scoring.shift_note
        self.slice_button, self.volume_button = (
            self.scoring.slice_button,
            self.scoring.volume_button,
        )
        self.progress, self.cancel_button = self.scoring.progress, self.scoring.cancel_button
        self.score_note, self.p_value_note = self.scoring.note, self.scoring.p_value_note
        self.unseen_note = self.scoring.unseen_note
        # After the list of scans, which must contain a scan before it is chosen.
        self.visibility = LayerVisibility(self.viewer, lambda: self.scorer.sessions, self)
        self.threshold = ThresholdPanel()
        self.display_panel = DisplayPanel(
            self.viewer, self.visibility, self, more=[self.threshold.form.unseen]
        )
        self.findings = FindingsPanel(self.viewer, self)
        self.explain = ExplainPanel(self.viewer, self.tasks, self)
        self.export = ExportPanel()
        # What a first reading needs comes first, without scrolling in a window of 1366 x 768.
        first = row(self.scan.box, self.model_box, self.volume_button)
        first.setStretch(0, 3)
        first.setStretch(1, 2)
        sections = [
            stack([self.scan, self.model_panel, self.scoring]),
            self.threshold,
            self.findings,
            self.display_panel,
            self.explain,
            self.model_panel.fold,
            self.export,
        ]
        head = stack([self.scan.opening, first])
        self.lay_out(sections, head=head, foot=self.export.foot)
        self.setAcceptDrops(True)

    def _connect(self) -> None:
        self.scan.chosen.connect(self.choice.follow)
        self.scan.chosen.connect(self._show_session)
        self.scan.chosen.connect(self._fill_in_part)
        self.scan.list.removed.connect(self._on_layer_removed)
        self.shelf.wanted.connect(self._bring_back)
        self.scan.opener.listed.connect(self.show_worklist)
        self.scan.opener.queried.connect(self.show_query)
        self.scan.worklist_button.clicked.connect(partial(self.show_worklist, ()))
        self.plane_box.currentIndexChanged.connect(self._show_session)
        self.models.left.connect(self._show_session)
        self.models.loaded.connect(self._on_model)
        self.models.unusable.connect(self._on_no_model)
        self.slice_button.clicked.connect(partial(self.score, "slice"))
        self.volume_button.clicked.connect(partial(self.score, "volume"))
        self.cancel_button.clicked.connect(self.cancel)
        self.scorer.status_changed.connect(self._update_status)
        self.scorer.refused.connect(self.score_note.set_text)
        self.scorer.progressed.connect(self.scoring.show_progress)
        self.scorer.session_made.connect(self._show_session)
        self.scorer.scored.connect(self._on_scored)
        self.scorer.finished.connect(self._show_session)
        self.scorer.finished.connect(self._fill_in_part)
        self.scorer.finished.connect(self.normal_rank.measure)
        self.normal_rank.measured.connect(self._on_normal_rank)
        self.domain_shift.message.connect(self.findings.warn)
        self.threshold.threshold_changed.connect(self.masks.set_threshold)
        self.threshold.settings_changed.connect(self._on_settings)
        self.threshold.settings_changed.connect(self.masks.set_settings)
        self.masks.region_refused.connect(self.threshold.refuse_region)
        self.threshold.highest_wanted.connect(self.show_highest)
        self.visibility.wanted.connect(self._follow)
        self.visibility.given.connect(self._list_regions)
        self.display_panel.missed.connect(self._draw_again)
        self.masks.findings_changed.connect(self.threshold.show_findings)
        self.findings.connect_masks(self.masks)
        self.masks.failed.connect(partial(report, doing="Making the mask"))
        self.masks.set_settings(self.threshold.settings)
        self.threshold.region.set_viewer(self.viewer)
        self.export.mask_button.clicked.connect(lambda: self.exporter.mask(self.session))
        self.export.all_button.clicked.connect(lambda: self.exporter.everything(self.session))
        self.export.report_button.clicked.connect(self.export_report)
        self.export.send_button.clicked.connect(lambda: self.exporter.send(self.session))
        self.exporter.reports.changed.connect(self._enable)
        if self.models.model is not None:
            self._on_model(self.models.model)

    # ------------------------------------------------------------------ what is shown

    @property
    def session(self) -> Session | None:
        """Scores of the chosen scan by the chosen model, if any."""
        layer, model = self.scan.layer, self.models.model
        return self.scorer.session_for(layer, model, self.plane_box.currentData())

    @property
    def running(self) -> bool:
        """Whether slices are being scored."""
        return self.scorer.running

    def _show_session(self, *_: object) -> None:
        """Update everything for the chosen scan, model and plane."""
        session = self.session
        self._count_unseen()
        self.display_panel.set_session(self.scan.layer, session)
        self.visibility.show(self.scan.layer, session)
        self.masks.set_session(session)
        self._list_regions()
        self.explain.set_session(session)
        self.export.set_scan(None if session is None else session.volume)
        self.threshold.set_counts(None if session is None else session.counts)
        self.p_value_note.set_text("" if session is None else session.normal_rank)
        self.unseen_note.set_text("" if session is None else session.unseen)
        self._update_status()
        plane = self.plane_box.currentData()
        self.domain_shift.check(self.scan.layer, self.models.model, plane, session)
        if session is None:
            self.threshold.clear_findings()
        else:
            self.threshold.set_measurable(session.geometry.exact)
            if session.any_scored:
                self.threshold.set_scores(session.highest, session.typical_high)
            self.masks.finish()
        self._enable()

    def _count_unseen(self) -> bool:
        """Count unseen slices of the chosen scan or leave them out; whether any changed."""
        session, counted = self.session, self.threshold.settings.unseen_slices
        if session is None or not session.count_unseen(counted):
            return False
        session.judge()
        self.normal_rank.measure(session)
        return True

    def _on_settings(self, *_: object) -> None:
        if self._count_unseen():
            self._show_session()

    def _list_regions(self) -> None:
        self.threshold.region.set_scan(self.scan.layer, self.visibility.belongs)

    def _update_status(self, *_: object) -> None:
        """Show the scoring status of the chosen scan, and of no other."""
        loading = "Loading the model..." if self._wanted is not None else ""
        self.score_note.set_text(loading or self.scorer.status_text(self.session))

    def _follow(self, layer: Image, session: Session | None) -> None:
        """Choose what was shown by hand in napari's own list."""
        self.scan.list.choose(layer)
        if session is not None and same_model(self.models.model, session.model):
            select_data(self.plane_box, session.plane)
        elif session is not None:
            self._followed = session
            part = session.model.header.part
            name = session.model.name.removesuffix(f"+{part}")
            if self.models.whole is not None and self.models.whole.name == name:
                self.models.choose_part(part)
            else:
                self.models.choose(name)
        self._show_session()

    def _draw_again(self) -> None:
        """Draw results whose layers the user has deleted."""
        if self.session is not None:
            self.session.ensure_heatmap()
            self.masks.finish()

    def set_suspended(self, suspended: bool) -> None:
        """Stop scoring and leave the layers alone while the dock is closed."""
        if suspended:
            self.scorer.stop()
        self.visibility.set_suspended(suspended)

    def _on_normal_rank(self, session: Session) -> None:
        if session is self.session:
            self.p_value_note.set_text(session.normal_rank)

    def _enable(self) -> None:
        ready = self.scan.layer is not None and self.models.info is not None
        ready = ready and not self.scorer.busy_with(self.session)
        self.scoring.enable(ready, self.running or self._wanted is not None)
        scored = self.session is not None and self.session.any_scored
        self.export.enable(scored)
        self.threshold.highest.setEnabled(scored)
        if self.exporter.reports.busy:
            self.export.report_button.setEnabled(True)  # it cancels

    def export_report(self) -> None:
        """Write a report of the chosen scan, or cancel the one in progress."""
        self.exporter.report(self.session)

    def show_highest(self) -> None:
        """Go to the slice with the highest score."""
        session = self.session
        if session is not None and session.highest_slice is not None:
            go_to_slice(self.viewer, session.layer, session.geometry, session.highest_slice)

    # ------------------------------------------------------------------ scans and models

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Accept files and folders."""
        if dropped_paths(event.mimeData()):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Open dropped files."""
        event.acceptProposedAction()
        self.scan.opener.open(dropped_paths(event.mimeData()))

    def show_worklist(self, paths: Sequence[str] = (), found: Found | None = None) -> None:
        """Show the worklist, with the scans of files and folders if any are given."""
        self.worklist = show_worklist(self, self.worklist, paths, found or None)

    def show_query(self, query: ArchiveQuery) -> None:
        """Show the worklist, with the scans that a query finds in an archive."""
        self.worklist = show_worklist(self, self.worklist, query=query)

    def _on_layer_removed(self) -> None:
        self.shelf.put([one for one in self.scorer.drop_removed() if one.holds_work])
        self.domain_shift.drop(self.viewer.layers)
        self._enable()

    def _bring_back(self, shelved: DeletedScan) -> None:
        """Restore a deleted scan to the viewer, with all work on it."""
        self.scorer.adopt(shelved.sessions)
        self.viewer.add_layer(shelved.layer)
        for session in shelved.sessions:
            session.show_again()
        self._follow(shelved.layer, shelved.sessions[-1])

    def _on_model(self, model: ScoringModel) -> None:
        self.threshold.set_model(model)
        followed, self._followed = self._followed, None
        plane = model.plane
        if followed is not None and same_model(model, followed.model):
            plane = followed.plane
        select_data(self.plane_box, plane)
        self._show_session()
        self._fill_in_part()
        if self._wanted is not None:
            what, self._wanted = self._wanted, None
            self.score(what)

    def _fill_in_part(self, *_: object) -> None:
        """Show scores of a part that are known from those of the whole method.

        While something is being scored this waits until that has finished.
        """
        layer, model, whole = self.scan.layer, self.models.model, self.models.whole
        plane = self.plane_box.currentData()
        if layer is None or model is None or whole is None or self.running:
            return
        known = self.scorer.session_for(layer, whole, plane)
        if model is not whole and known is not None:
            scores = whole.scores_of(model.header.part, known.score)
            if scores.visited.any():
                self.scorer.restore(layer, model, plane, scores, remaining=False)

    def _on_no_model(self) -> None:
        self._wanted = None
        self._show_session()

    # ------------------------------------------------------------------ scoring

    def score(self, what: str, *_: object) -> None:
        """Score the slice in view (``"slice"``) or all remaining slices (``"volume"``)."""
        layer, model = self.scan.layer, self.models.model
        if layer is None:
            return
        if model is not None:
            self._show_session()
            self.scorer.score(layer, model, what, self.plane_box.currentData())
        elif self.models.info is not None:
            self._wanted = what
            self.models.load(self.models.info)
        self._enable()

    def cancel(self) -> None:
        """Stop scoring, or leave the queue; scores so far are kept."""
        self._wanted = None
        self.scorer.cancel(self.session)
        self._update_status()
        self._enable()

    def _on_scored(self, session: Session, indices: list[int]) -> None:
        if session is not self.session or not session.any_scored:
            return
        self.threshold.set_scores(session.highest, session.typical_high)
        self.threshold.set_counts(session.counts)
        self.unseen_note.set_text(session.unseen)
        self.masks.slices_scored(indices)
        self._enable()
