"""Letters at the edges of a view, reasoned from the patient's side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_spatial_ar.gui.viewer import Edges, axis_directions, edge_letters
from napari_spatial_ar.imaging.geometry import Geometry

# Axes of a layer: 0 grows to superior, 1 to posterior, 2 to the patient's left.
STRAIGHT = np.array([[0, 0, 1.0], [0, -1, 0], [-1, 0, 0]])


# The radiological convention: the viewer looks from the feet (axial), from the front (coronal),
# and from the patient's left (sagittal).
@pytest.mark.parametrize(
    ("displayed", "way", "edges"),
    [
        ((1, 2), ("down", "right"), Edges("R", "L", "A", "P")),
        ((0, 2), ("up", "right"), Edges("R", "L", "S", "I")),
        ((0, 1), ("up", "right"), Edges("A", "P", "S", "I")),
        # The user transposes an axial slice, or turns the camera.
        ((2, 1), ("down", "right"), Edges("A", "P", "R", "L")),
        ((1, 2), ("up", "right"), Edges("R", "L", "P", "A")),
        ((1, 2), ("down", "left"), Edges("L", "R", "A", "P")),
        ((0, 2), ("down", "right"), Edges("R", "L", "I", "S")),
    ],
)
def test_edges_of_every_plane_and_turn(displayed: Any, way: Any, edges: Edges) -> None:
    assert edge_letters(STRAIGHT, displayed, way) == edges


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PSR", "AIL", "LSP", "SPL", "RIA"])
def test_axes_of_a_layer_grow_to_s_p_and_l_however_the_scan_is_stored(lab: Any, codes: str) -> None:
    geometry = Geometry(lab.shape, lab.affine(codes, (1.0, 1.5, 3.0)))
    assert np.allclose(axis_directions(geometry), STRAIGHT)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PSR"])
@pytest.mark.parametrize(
    ("degrees", "edges"),
    [
        (14, Edges("R", "L", "A", "P")),
        # Turned about the body's long axis so that right comes forward and front to the left:
        # (1, 0, 0) becomes (0.87, 0.5, 0), and (0, 1, 0) becomes (-0.5, 0.87, 0).
        (30, Edges("RA", "LP", "AL", "PR")),
        (-30, Edges("RP", "LA", "AR", "PL")),
    ],
)
def test_oblique_slices_get_a_second_letter(
    lab: Any, codes: str, degrees: float, edges: Edges
) -> None:
    geometry = Geometry(lab.shape, lab.affine(codes, (1.0, 1.5, 3.0), degrees))
    assert edge_letters(axis_directions(geometry), (1, 2)) == edges
