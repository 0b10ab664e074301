"""Scans as layers and back, in many orientations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui.layers import (
    KEY,
    heatmap_layer,
    is_scan,
    layer_volume,
    mask_layer,
    source_array,
    volume_layer_kwargs,
)
from napari_spatial_ar.gui.viewer import camera_of, go_to_slice, show_acquired_plane, slice_in_view
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series

ORIENTATIONS = ["LPS", "RAS", "LAS", "PSR", "AIL", "LSP", "RIA", "SPL"]


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("degrees", [0.0, 12.0])
def test_a_layer_lies_where_the_scan_lies_in_the_patient(
    lab: Any, codes: str, degrees: float
) -> None:
    volume = lab.make_volume(codes, degrees=degrees)
    layer = Image(**volume_layer_kwargs(volume))
    where = np.argwhere(layer.data == 100).mean(axis=0)
    s, p, left = layer.data_to_world(where)
    centre = np.array([(part.start + part.stop - 1) / 2 for part in lab.lesion])[::-1]
    x, y, z = (volume.geometry.affine @ [*centre, 1])[:3]
    middle = (volume.geometry.affine @ [*(np.array(lab.shape[::-1]) - 1) / 2, 1])[:3]
    # An oblique scan is drawn unrotated about its middle, so only near the middle is it exact.
    reach = np.linalg.norm([x, y, z] - middle) * 2 * np.sin(np.deg2rad(degrees) / 2)
    assert np.linalg.norm(np.array([s, p, left]) - [z, -y, -x]) <= reach + 1e-6


def test_units_axes_and_name(lab: Any, tmp_path: Any) -> None:
    volume = lab.make_volume()
    layer = Image(**volume_layer_kwargs(volume))
    assert layer.axis_labels == ("S", "P", "L")
    assert {str(u) for u in layer.units} == {"millimeter"}
    assert layer.name == "MR series 4"
    flat = Scan(lab.voxels(), Geometry.without_spacing(lab.shape), "unknown", Series("pictures"))
    assert {str(u) for u in Image(**volume_layer_kwargs(flat)).units} == {"pixel"}


def test_our_layer_gives_back_the_very_volume(lab: Any) -> None:
    volume = lab.make_volume("PSR")
    layer = Image(**volume_layer_kwargs(volume))
    assert layer_volume(layer) is volume


def test_changed_voxels_are_taken_from_the_layer(lab: Any) -> None:
    volume = lab.make_volume("PSR")
    layer = Image(**volume_layer_kwargs(volume))
    layer.data = np.asarray(layer.data) * 2
    changed = layer_volume(layer)
    assert np.array_equal(changed.data, volume.data * 2)
    assert changed.geometry is volume.geometry


@pytest.mark.parametrize("codes", ["LPS", "PSR", "RIA"])
def test_a_part_or_a_flip_of_a_scan_is_not_taken_for_the_scan(lab: Any, codes: str) -> None:
    volume = lab.make_volume(codes)
    layer = Image(**volume_layer_kwargs(volume))
    whole = layer.data
    layer.data = whole[1:]
    assert layer_volume(layer) is not volume
    with pytest.raises(InputError):
        source_array(layer.data, layer.as_layer_data_tuple()[1])
    layer.data = whole[:, :, ::-1]
    flipped = layer_volume(layer)
    assert np.array_equal(volume.geometry.to_display(flipped.data), whole[:, :, ::-1])
    array, geometry, _ = source_array(layer.data, layer.as_layer_data_tuple()[1])
    assert geometry is volume.geometry
    assert np.array_equal(geometry.to_display(array), whole[:, :, ::-1])
    layer.data = whole
    assert layer_volume(layer) is volume


def test_a_foreign_layer_is_upright_slices_without_known_spacing() -> None:
    data = np.random.default_rng(0).random((4, 8, 6)).astype(np.float32)
    volume = layer_volume(Image(data, scale=(3, 2, 1), translate=(5, 6, 7), name="DOE_JANE"))
    assert not volume.geometry.spacing_known
    assert volume.geometry.spacing == (3, 2, 1)
    assert np.array_equal(volume.slices, data)
    assert np.array_equal(volume.geometry.to_display(volume.data), data)
    assert volume.geometry.display_translate == pytest.approx((5, 6, 7))
    assert "DOE" not in volume.series.label


def test_a_single_picture_is_one_slice() -> None:
    data = np.random.default_rng(0).random((8, 6)).astype(np.float32)
    assert layer_volume(Image(data)).data.shape == (1, 8, 6)


@pytest.mark.parametrize(
    "settings", [{"rotate": 30}, {"scale": (1, -1, 1)}, {"affine": np.diag([1, 1, 2, 1.0])}]
)
def test_a_turned_foreign_layer_is_refused(settings: dict[str, Any]) -> None:
    data = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    with pytest.raises(InputError, match="rotated, sheared or mirrored"):
        layer_volume(Image(data, **settings))


def test_colour_and_result_layers_are_no_scans(lab: Any) -> None:
    volume = lab.make_volume()
    layer = Image(**volume_layer_kwargs(volume))
    heatmap = heatmap_layer(layer, volume, np.zeros(lab.shape, np.float32))
    assert is_scan(layer)
    assert not is_scan(heatmap)
    assert not is_scan(Image(np.zeros((4, 5, 3), np.uint8), rgb=True))


def test_results_lie_exactly_on_the_scan(lab: Any) -> None:
    volume = lab.make_volume("AIL")
    layer = Image(**volume_layer_kwargs(volume))
    for made in (
        heatmap_layer(layer, volume, np.ones(lab.shape, np.float32)),
        mask_layer(layer, volume, np.ones(lab.shape, np.uint8)),
    ):
        assert np.array_equal(made.scale, layer.scale)
        assert np.array_equal(made.translate, layer.translate)
        assert made.units == layer.units
        assert made.axis_labels == layer.axis_labels
        assert np.array_equal(made.extent.world, layer.extent.world)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_source_array_undoes_the_display(lab: Any, codes: str) -> None:
    volume = lab.make_volume(codes)
    layer = mask_layer(
        Image(**volume_layer_kwargs(volume)), volume, (volume.data > 50).astype(np.uint8)
    )
    array, geometry, _ = source_array(layer.data, {"metadata": layer.metadata})
    assert geometry is volume.geometry
    assert np.array_equal(array, volume.data > 50)


@pytest.mark.parametrize(
    ("codes", "order", "vertical"),
    [("LPS", (0, 1, 2), "down"), ("LSP", (1, 0, 2), "up"), ("PSR", (2, 0, 1), "up")],
)
def test_the_acquired_plane_is_shown_upright(
    lab: Any, codes: str, order: tuple[int, ...], vertical: str
) -> None:
    viewer = ViewerModel()
    volume = lab.make_volume(codes)
    layer = viewer.add_image(**volume_layer_kwargs(volume))
    show_acquired_plane(viewer, volume.geometry)
    assert viewer.dims.order == order
    assert str(camera_of(viewer).orientation2d[0]) == vertical
    assert viewer.dims.displayed == order[1:]
    for index in (0, 3, lab.shape[0] - 1):
        go_to_slice(viewer, layer, volume.geometry, index)
        assert slice_in_view(viewer, layer, volume.geometry) == index
        shown = np.moveaxis(layer.data, volume.geometry.display_slice_axis, 0)
        step = viewer.dims.current_step[volume.geometry.display_slice_axis]
        assert np.array_equal(np.sort(shown[step], None), np.sort(volume.slices[index], None))


def test_metadata_holds_the_affine_of_the_scan(lab: Any) -> None:
    volume = lab.make_volume("RIA", degrees=9)
    facts = Image(**volume_layer_kwargs(volume)).metadata[KEY]
    assert np.array_equal(facts["geometry"].affine, lab.affine("RIA", (1.0, 1.5, 3.0), 9))


@pytest.mark.parametrize("shape", [(4, 30, 40), (30, 40, 3)])
def test_a_scan_of_three_or_four_sagittal_slices_is_not_taken_for_colours(
    shape: tuple[int, int, int],
) -> None:
    data = np.random.default_rng(0).random(shape, dtype=np.float32)
    for affine in (np.diag([-1.0, -1, 1, 1]), np.eye(4)[[2, 0, 1, 3]]):
        volume = Scan(data, Geometry(shape, affine), "mri", Series("MR series 1"))
        layer = Image(**volume_layer_kwargs(volume))
        assert (layer.ndim, layer.rgb) == (3, False)
        heatmap = heatmap_layer(layer, volume, data)
        assert (heatmap.ndim, heatmap.rgb) == (3, False)
