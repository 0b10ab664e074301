"""Letters, scale bar and the way up, in viewers without a window."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_spatial_ar.gui.layers import volume_layer_kwargs
from napari_spatial_ar.gui.viewer import (
    Edges,
    camera_of,
    go_to_slice,
    patient_marks,
    plane_in_view,
    show_acquired_plane,
    show_plane,
)
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series

PLANES = {
    "axial": Edges("R", "L", "A", "P"),
    "coronal": Edges("R", "L", "S", "I"),
    "sagittal": Edges("A", "P", "S", "I"),
}


def drawn(viewer: Any) -> dict[str, str]:
    """Letters on the canvas by napari's own names of its places."""
    texts = [o for key, o in viewer.canvas.overlays.items() if key.startswith("patient_")]
    return {str(o.position): o.text for o in texts if o.visible and o.position != "top_left"}


@pytest.mark.parametrize("codes", ["LPS", "PSR", "LSP"])
def test_the_letters_follow_the_plane(lab: Any, codes: str) -> None:
    viewer = ViewerModel()
    marks = patient_marks(viewer)
    assert drawn(viewer) == {}
    volume = lab.make_volume(codes)
    viewer.add_image(**volume_layer_kwargs(volume))
    show_acquired_plane(viewer, volume.geometry)
    assert plane_in_view(viewer) == volume.geometry.plane
    assert marks.edges == PLANES[volume.geometry.plane]
    for plane, edges in PLANES.items():
        show_plane(viewer, plane)
        assert plane_in_view(viewer) == plane
        assert drawn(viewer) == {
            "middle_left": edges.left,
            "middle_right": edges.right,
            "top_center": edges.top,
            "bottom_center": edges.bottom,
        }


@pytest.mark.parametrize("codes", ["LPS", "LPI", "PSR", "LSP"])
def test_the_slice_is_counted_from_1_in_the_order_of_the_file(lab: Any, codes: str) -> None:
    viewer = ViewerModel()
    marks = patient_marks(viewer)
    volume = lab.make_volume(codes)
    layer = viewer.add_image(**volume_layer_kwargs(volume))
    for plane in PLANES:
        show_plane(viewer, plane)
        seen = volume.geometry.along(plane)
        for index in (0, 1, seen.slice_count - 1):
            go_to_slice(viewer, layer, seen, index)
            assert marks.place == f"Slice {index + 1} of {seen.slice_count}"
            overlay = viewer.canvas.overlays["patient_slice"]
            assert (overlay.text, overlay.visible) == (marks.place, True)
    viewer.dims.ndisplay = 3
    assert not viewer.canvas.overlays["patient_slice"].visible


@pytest.mark.parametrize("narrow", [False, True])
def test_in_a_narrow_view_nothing_lies_over_a_letter(lab: Any, narrow: bool) -> None:
    viewer = ViewerModel()
    patient_marks(viewer)
    viewer.add_image(**volume_layer_kwargs(lab.make_volume("LPS")))
    canvas = viewer.canvas
    canvas.size = (600, 260 if narrow else 800)
    letters = {str(canvas.overlays[f"patient_{side}"].position) for side in ("top", "bottom")}
    assert letters == {"top_center", "bottom_center"}
    place, bar = canvas.overlays["patient_slice"], canvas.overlays.scale_bar
    if narrow:  # one above the other, as napari lays out what has the same position
        assert place.position == bar.position == "bottom_center"
        assert canvas.overlay_tiling.bottom_center == "vertical"
    else:
        assert (place.position, bar.position) == ("top_left", "bottom_left")


def test_two_views_side_by_side_have_half_the_room(lab: Any) -> None:
    viewer = ViewerModel()
    patient_marks(viewer)
    for _ in range(2):
        viewer.add_image(**volume_layer_kwargs(lab.make_volume("LPS")))
    viewer.canvas.size = (600, 600)
    assert viewer.canvas.overlays["patient_slice"].position == "top_left"
    viewer.canvas.grid.shape = (1, 2)
    viewer.canvas.grid.enabled = True
    assert viewer.canvas.overlays["patient_slice"].position == "bottom_center"
    viewer.canvas.grid.enabled = False
    assert viewer.canvas.overlays["patient_slice"].position == "top_left"


def test_the_scale_bar_lies_where_no_notification_does(lab: Any) -> None:
    viewer = ViewerModel()
    patient_marks(viewer)
    viewer.add_image(**volume_layer_kwargs(lab.make_volume()))
    assert str(viewer.canvas.overlays.scale_bar.position) == "bottom_left"


def test_layers_agree_on_units_so_that_napari_does_not_warn(
    make_napari_viewer: Any, lab: Any, notes: list[str]
) -> None:
    """napari looks at the units of all layers, hidden ones too, whenever it draws."""
    viewer = make_napari_viewer(show=True)
    marks = patient_marks(viewer)

    def drawn_units() -> str:
        viewer.screenshot(flash=False)
        return str(viewer.layers.extent.units)

    scan = viewer.add_image(**volume_layer_kwargs(lab.make_volume()))
    viewer.add_shapes([np.eye(3)], shape_type="path")
    viewer.add_points(np.zeros((1, 2)))
    viewer.add_labels(np.ones(scan.data.shape, np.uint8))
    assert "millimeter" in drawn_units()
    flat = Geometry.without_spacing((1, 40, 36))
    picture = Scan(lab.voxels()[5:6], flat, "other", Series("picture"))
    other = viewer.add_image(**volume_layer_kwargs(picture), visible=False)
    assert "millimeter" in drawn_units()
    scan.visible, other.visible = False, True
    marks.follow(other)
    assert "pixel" in drawn_units()  # of the picture that is seen, no length is claimed
    scan.visible, other.visible = True, False
    marks.follow(scan)
    assert "millimeter" in drawn_units()
    viewer.layers.remove(scan)
    other.visible = True
    assert "pixel" in drawn_units()
    viewer.add_image(lab.voxels()[5])
    assert "pixel" in drawn_units()
    viewer.add_image(lab.voxels()[None], units=("s", "mm", "mm", "mm"))
    assert notes == []


def test_a_ball_left_in_front_and_above_lies_between_the_letters_that_say_so() -> None:
    """Side by an asymmetric phantom: drawn rows and columns against where the ball was put."""
    grid = np.indices((20, 24, 28))
    affine = np.array([[0, 2.0, 0, -28], [0, 0, -2, 23], [2.0, 0, 0, -19], [0, 0, 0, 1]])
    # NIfTI (i, j, k) = (x, y, z) of the array, RAS millimetres of each voxel.
    ras = np.tensordot(affine[:3, :3], grid, 1) + affine[:3, 3][:, None, None, None]
    ball = np.linalg.norm(ras - np.array([-12.0, 11.0, 10.0])[:, None, None, None], axis=0) < 5
    data = (10 + 90 * ball + (ras[0] > 0)).astype(np.float32).T
    volume = Scan(data, Geometry(data.shape, affine), "mri", Series("phantom"))
    viewer = ViewerModel()
    marks = patient_marks(viewer)
    layer = viewer.add_image(**volume_layer_kwargs(volume))
    where = layer.data_to_world(np.argwhere(np.asarray(layer.data) > 90).mean(axis=0))
    assert where == pytest.approx((10, -11, 12), abs=0.5)  # (S, P, L)
    centre = np.mean(layer.extent.world, axis=0)
    for plane in PLANES:
        show_plane(viewer, plane)
        down, right = (where - centre)[list(viewer.dims.order[-2:])]
        vertical, horizontal = camera_of(viewer).orientation2d
        below = down > 0 if str(vertical) == "down" else down < 0
        on_the_right = right > 0 if str(horizontal) == "right" else right < 0
        edges = marks.edges
        assert edges is not None
        near = {edges.bottom if below else edges.top, edges.right if on_the_right else edges.left}
        assert near < {"L", "A", "S"}


def test_rolled_transposed_and_flipped_views_stay_right(lab: Any) -> None:
    viewer = ViewerModel()
    marks = patient_marks(viewer)
    viewer.add_image(**volume_layer_kwargs(lab.make_volume()))
    viewer.dims.transpose()
    assert marks.edges == Edges("A", "P", "R", "L")
    viewer.dims.order = (0, 1, 2)
    viewer.dims.roll()
    assert marks.edges == Edges("A", "P", "S", "I")
    show_plane(viewer, "coronal")
    camera_of(viewer).orientation2d = ("down", "left")
    assert marks.edges == Edges("L", "R", "I", "S")


def test_no_letters_in_3d_but_arrows(lab: Any) -> None:
    viewer = ViewerModel()
    patient_marks(viewer)
    viewer.add_image(**volume_layer_kwargs(lab.make_volume()))
    assert not viewer.canvas.overlays.axes.visible
    viewer.dims.ndisplay = 3
    assert drawn(viewer) == {}
    assert viewer.canvas.overlays.axes.visible
    viewer.dims.ndisplay = 2
    assert len(drawn(viewer)) == 4
    assert not viewer.canvas.overlays.axes.visible


def test_nothing_where_the_scan_does_not_say_how_the_patient_lies(lab: Any) -> None:
    viewer = ViewerModel()
    marks = patient_marks(viewer)
    flat = Scan(lab.voxels(), Geometry.without_spacing(lab.shape), "unknown", Series("pictures"))
    viewer.add_image(**volume_layer_kwargs(flat))
    assert drawn(viewer) == {}
    assert not viewer.canvas.overlays.scale_bar.visible
    known = viewer.add_image(**volume_layer_kwargs(lab.make_volume()))
    assert len(drawn(viewer)) == 4
    assert viewer.canvas.overlays.scale_bar.visible
    foreign = viewer.add_image(np.random.default_rng(0).random((3, 9, 9)))
    assert drawn(viewer) == {}
    # The dock's choice comes first, while it can be seen.
    marks.follow(known)
    assert len(drawn(viewer)) == 4
    known.visible = False
    assert drawn(viewer) == {}
    viewer.layers.remove(foreign)
    known.visible = True
    assert len(drawn(viewer)) == 4


def test_a_layer_that_the_user_mirrors_loses_its_letters(lab: Any) -> None:
    viewer = ViewerModel()
    patient_marks(viewer)
    layer = viewer.add_image(**volume_layer_kwargs(lab.make_volume()))
    scale = np.array(layer.scale)
    layer.scale = scale * (1, 1, -1)
    assert drawn(viewer) == {}
    layer.scale = scale
    assert len(drawn(viewer)) == 4
    layer.affine = np.diag([1, 1, -1, 1])
    assert drawn(viewer) == {}


def test_irregular_geometry_has_letters_but_no_millimetres(lab: Any) -> None:
    viewer = ViewerModel()
    patient_marks(viewer)
    volume = lab.make_volume(spacing=(0.5, 1.0, 4.0))
    volume = replace(volume, geometry=replace(volume.geometry, regular=False))
    layer = viewer.add_image(**volume_layer_kwargs(volume))
    assert {str(unit) for unit in layer.units} == {"pixel"}
    assert tuple(layer.scale) == (8, 2, 1)  # pixels keep their shape
    assert not viewer.canvas.overlays.scale_bar.visible
    assert len(drawn(viewer)) == 4


def test_one_set_of_marks_a_viewer_that_dies_with_it() -> None:
    viewer = ViewerModel()
    marks = patient_marks(viewer)
    assert patient_marks(viewer) is marks
    gone = weakref.ref(viewer)
    del viewer
    gc.collect()
    assert gone() is None
