"""Scans as napari layers, and layers as scans."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeGuard
from weakref import ref

import dask.array as da
import numpy as np
import numpy.typing as npt
from napari.layers import Image, Labels, Layer
from napari.utils.colormaps import Colormap

from napari_spatial_ar.errors import InputError, SpatialARError
from napari_spatial_ar.gui.display_windows import Drawn, opening_window
from napari_spatial_ar.gui.jobs import report
from napari_spatial_ar.gui.mask_labels import IN_MASK, label_colormap
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.review.drawing import DEFAULT_COLOURS, HEAT_COLOURS

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = [
    "AXES",
    "KEY",
    "add_scan",
    "drawable",
    "geometry_of",
    "heatmap_colormap",
    "heatmap_layer",
    "import_ahead",
    "is_scan",
    "kind_of",
    "layer_volume",
    "linked_copy",
    "mask_layer",
    "place_of",
    "result_name",
    "scan_behind",
    "scan_of",
    "source_array",
    "unseen_layer",
    "unseen_voxels",
    "volume_layer_kwargs",
]

#: Key of this plugin's data in ``layer.metadata``.
KEY = "napari-spatial-ar"


#: Directions of the axes of every layer.
AXES = ("S", "P", "L")


def volume_layer_kwargs(volume: Scan, drawn: Drawn | None = None) -> dict[str, Any]:
    """Arguments of ``viewer.add_image`` that draw a scan at its position in the patient.

    Parameters
    ----------
    volume : Scan
        The scan.
    drawn : Drawn, optional
        Display window; by default the `opening_window` of the scan, for which many slices of a
        large one may be read.

    Returns
    -------
    dict
        ``data`` is a view with axes (S, P, L). The name is the series label, which names no
        patient and no file.
    """
    geometry = volume.geometry
    drawn = drawn or opening_window(volume)
    facts = {"kind": "scan", "volume": volume, "geometry": geometry, "drawn": drawn}
    return {
        "data": geometry.to_display(drawable(volume)),
        "name": volume.series.label,
        "rgb": False,  # napari takes a last axis of 3 or 4 for colours
        "colormap": "gray",
        "contrast_limits": drawn.limits,
        "interpolation2d": "linear",
        "metadata": {KEY: facts},
        **_place(geometry),
    }


def add_scan(viewer: ViewerModel, volume: Scan, drawn: Drawn, *, visible: bool = True) -> Image:
    """Add a scan to a viewer, see `volume_layer_kwargs`."""
    layer = Image(**volume_layer_kwargs(volume, drawn), visible=visible)
    viewer.add_layer(layer)
    return layer


class _Place(TypedDict):
    """Position of a layer, as its arguments."""

    scale: Sequence[float]
    translate: Sequence[float]
    units: Sequence[str]
    axis_labels: Sequence[str]


def _place(geometry: Geometry) -> _Place:
    scale, translate = geometry.display_spacing, geometry.display_translate
    if geometry.spacing_known and not geometry.regular:
        # Nothing in mm: pixels stay square, and slices are at least one pixel apart.
        within = [s for axis, s in enumerate(scale) if axis != geometry.display_slice_axis]
        s, p, left = (step / min(within) for step in scale)
        scale, translate = (s, p, left), (0.0, 0.0, 0.0)
    return {
        "scale": scale,
        "translate": translate,
        "units": ("mm" if geometry.measurable else "pixel",) * 3,
        "axis_labels": AXES,
    }


def is_scan(layer: Layer) -> TypeGuard[Image]:
    """Whether a layer can be offered as a scan: an image that is not one of our heatmaps."""
    return (
        isinstance(layer, Image)
        and not layer.rgb
        and not layer.multiscale
        and layer.ndim in (2, 3)
        and kind_of(layer) in ("scan", "")
    )


def kind_of(layer: Layer) -> str:
    """Identify what this plugin made a layer for: "scan", "nll", "mask", "twin"; else ""."""
    return str(_known_of(layer, "kind") or "")


def scan_of(layer: Layer | None) -> Scan | None:
    """Return the scan that this plugin opened as a layer; None for any other layer, and for none.

    Its voxels may have been changed in the layer since: `layer_volume` sees that.
    """
    scan: Scan | None = _known_of(layer, "volume")
    return scan


def geometry_of(layer: Layer | None) -> Geometry | None:
    """Return the grid that a layer of this plugin is drawn on; None for any other, and for none."""
    geometry: Geometry | None = _known_of(layer, "geometry")
    return geometry


def _known_of(layer: Layer | None, name: str) -> Any:
    return None if layer is None else layer.metadata.get(KEY, {}).get(name)


def scan_behind(layer: Layer) -> Image | None:
    """Return the layer of the scan that a heatmap or mask belongs to; None if it was removed."""
    held = _known_of(layer, "scan")
    return None if held is None else held()


def linked_copy(layer: Image) -> Image:
    """Second drawing of a scan's layer, with the same voxels; it is never offered as a scan."""
    data, state, _ = layer.as_layer_data_tuple()
    facts = {"kind": "twin", "geometry": geometry_of(layer)}
    state |= {"name": f"{layer.name} (beside)", "metadata": {KEY: facts}, "visible": True}
    return Image(data, **state)


def layer_volume(layer: Image) -> Scan:
    """Scan behind an image layer.

    A layer from another reader is treated as upright slices, one after the other: the patient's
    orientation is unknown, so lengths are in pixels and no side is named.

    Raises
    ------
    InputError
        If the layer is in colour, rotated, sheared, has more than three axes, or is not finite.
    """
    data = layer.data
    volume = scan_of(layer)
    if volume is not None:
        if _same_voxels(data, volume):
            return volume
        if data.shape == volume.geometry.display_shape:
            # Filtered or corrected by another plugin in the meantime.
            return replace(volume, voxels=volume.geometry.from_display(data).astype(np.float32))
    if not is_scan(layer):
        raise InputError(
            f"the layer '{layer.name}' is not a grey scan of two or three axes",
            fix="Open the scan with this dock",
        )
    geometry = _plain_geometry(
        data.shape, layer.scale, layer.translate, layer.affine.affine_matrix, layer.rotate, layer
    )
    with np.errstate(over="ignore"):  # values that are too large are reported below
        voxels = np.asarray(data, dtype=np.float32).reshape(geometry.shape)
    if not np.isfinite(voxels).all():
        raise InputError(f"the layer '{layer.name}' contains values that are not numbers")
    # Not the layer's name, which may be a file name and contain a patient's.
    return Scan(voxels, geometry, "unknown", Series(label="scan"))


def _same_voxels(data: object, volume: Scan) -> bool:
    """Whether a layer's data is exactly that of a scan, and not a part or a flip of it."""
    drawn = volume.geometry.to_display(drawable(volume))
    if volume.lazy:
        # The name of a dask array identifies how it is computed.
        return bool(getattr(data, "name", "") == getattr(drawn, "name", None))
    return isinstance(data, np.ndarray) and _view_of(data) == _view_of(drawn)


def _view_of(array: npt.NDArray[Any]) -> tuple[object, ...]:
    """Identify the memory of an array, and its strides."""
    return array.__array_interface__["data"][0], array.shape, array.strides, array.dtype


def _plain_geometry(
    shape: tuple[int, ...],
    scale: npt.ArrayLike,
    translate: npt.ArrayLike,
    affine: npt.ArrayLike,
    rotate: npt.ArrayLike,
    layer: Layer | None = None,
) -> Geometry:
    name = f"the layer '{layer.name}'" if layer is not None else "this layer"
    straight = np.allclose(affine, np.eye(len(shape) + 1)) and np.allclose(
        rotate, np.eye(len(shape))
    )
    steps = np.ones(3)
    steps[3 - len(shape) :] = np.asarray(scale, dtype=float)
    if not straight or (steps <= 0).any():
        raise InputError(
            f"{name} is rotated, sheared or mirrored",
            fix="Open the scan with this dock, which turns it the right way",
        )
    origin = np.zeros(3)
    origin[3 - len(shape) :] = np.asarray(translate, dtype=float)
    # Axes (S, P, L) to RAS: the same convention as `Geometry.without_spacing`.
    to_ras = np.diag([-steps[2], -steps[1], steps[0], 1.0])
    to_ras[:3, 3] = -origin[2], -origin[1], origin[0]
    full = (1, *shape) if len(shape) == 2 else shape
    return Geometry((full[0], full[1], full[2]), to_ras, spacing_known=False)


def _beside(layer: Image, volume: Scan) -> _Place:
    """Copy position, units and axis names from the scan's layer."""
    if layer.ndim != 3:
        return _place(volume.geometry)
    return place_of(layer)


def place_of(layer: Layer) -> _Place:
    """Arguments that put another layer at the position of this one."""
    return {
        "scale": tuple(layer.scale),
        "translate": tuple(layer.translate),
        "units": [str(unit) for unit in layer.units],
        "axis_labels": layer.axis_labels,
    }


def _facts(kind: str, volume: Scan, layer: Image, model: ScoringModel | None) -> dict[str, Any]:
    about = {"kind": kind, "geometry": volume.geometry, "like": volume.path}
    by = {"model": _name_of(model), "unit": "" if model is None else model.unit}
    # A weak reference: napari copies the metadata with a layer that is duplicated.
    return {KEY: {**about, **by, "scan": ref(layer)}}


def _name_of(model: ScoringModel | None) -> str:
    return "model" if model is None else model.name


_RESULT_NAMES = {"nll": "departure", "mask": "mask", "unseen": "not seen"}


def result_name(kind: str, model: str, scan: str = "") -> str:
    """Name of a model's result for a scan; includes the scan if several are open.

    napari's list shortens names in the middle.
    """
    made = f"{_RESULT_NAMES[kind]}: {model}"
    return f"{made}, {scan}" if scan else made


def heatmap_colormap(colours: str = DEFAULT_COLOURS) -> Colormap:
    """One of `HEAT_COLOURS`; it fades in, so that normal tissue stays visible."""
    return Colormap(HEAT_COLOURS[colours].rgba, name=f"{colours} (fading)")


def heatmap_layer(
    layer: Image, volume: Scan, nll: npt.NDArray[np.float32], model: ScoringModel | None = None
) -> Image:
    """Layer that draws a model's scores (Z, Y, X) over a scan's layer, as a view of them."""
    heatmap = Image(
        volume.geometry.to_display(nll),
        name=result_name("nll", _name_of(model)),
        rgb=False,
        contrast_limits=(1.0, 2.0),
        blending="translucent_no_depth",
        interpolation2d="linear",
        metadata=_facts("nll", volume, layer, model),
        **_beside(layer, volume),
    )
    heatmap.colormap = heatmap_colormap()
    return heatmap


def unseen_layer(
    layer: Image, volume: Scan, left_out: npt.NDArray[np.bool_], model: ScoringModel | None = None
) -> Image:
    """Layer that draws a grey shade over the slices (N,) of a scan's layer that are left out."""
    shade = Image(
        unseen_voxels(volume, left_out),
        name=result_name("unseen", _name_of(model)),
        rgb=False,
        contrast_limits=(0, 1),
        blending="translucent_no_depth",
        interpolation2d="nearest",
        metadata=_facts("unseen", volume, layer, model),
        **_beside(layer, volume),
    )
    shade.colormap = Colormap([(0.5, 0.5, 0.5, 0.0), (0.5, 0.5, 0.5, 0.6)], name="grey shade")
    return shade


def unseen_voxels(volume: Scan, left_out: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """(S, P, L) uint8, 1 in the slices (N,) that are left out; takes the memory of N numbers."""
    geometry = volume.geometry
    across = [1, 1, 1]
    across[geometry.slice_axis] = -1
    slices = left_out.astype(np.uint8).reshape(across)
    return geometry.to_display(np.broadcast_to(slices, geometry.shape))


def import_ahead() -> None:
    """Import, in a worker, what napari needs for its first labels layer, which takes a second."""
    with suppress(ImportError):
        importlib.import_module("pandas")


def mask_layer(
    layer: Image, volume: Scan, mask: npt.NDArray[np.uint8], model: ScoringModel | None = None
) -> Labels:
    """Layer that outlines a model's mask (Z, Y, X) on a scan's layer, as a view of it."""
    labels = Labels(
        volume.geometry.to_display(mask),
        name=result_name("mask", _name_of(model)),
        colormap=label_colormap(),
        opacity=0.9,
        metadata=_facts("mask", volume, layer, model),
        **_beside(layer, volume),
    )
    labels.contour = 1
    labels.selected_label = IN_MASK  # what the brush paints
    return labels


def source_array(
    data: npt.ArrayLike, attributes: Mapping[str, Any]
) -> tuple[npt.NDArray[Any], Geometry, Path | None]:
    """Convert a layer's data to the scan's own grid.

    Parameters
    ----------
    data : (S, P, L) array
        The layer's data.
    attributes : dict
        The layer's state, as passed by napari to writers.

    Returns
    -------
    (Z, Y, X) array, Geometry, Path or None
        The array on the scan's grid, the grid, and the file the scan came from.

    Raises
    ------
    InputError
        If the layer does not match its scan, or the scan can no longer be read.
    """
    facts = attributes.get("metadata", {}).get(KEY, {})
    geometry, volume = facts.get("geometry"), facts.get("volume")
    if volume is not None and _same_voxels(data, volume):
        # Not the drawn array, in which unreadable slices are blank.
        return np.asarray(volume.data), geometry, volume.path
    data = np.asarray(data)
    if geometry is None:
        if data.ndim not in (2, 3):
            raise InputError(f"a layer with {data.ndim} axes cannot be written as NIfTI")
        ndim = data.ndim
        geometry = _plain_geometry(
            data.shape,
            attributes.get("scale", np.ones(ndim)),
            attributes.get("translate", np.zeros(ndim)),
            attributes.get("affine", np.eye(ndim + 1)),
            attributes.get("rotate", np.eye(ndim)),
        )
        return data.reshape(geometry.shape), geometry, None
    like = facts.get("like") or (volume.path if volume is not None else None)
    return geometry.from_display(data), geometry, like


def drawable(volume: Scan) -> npt.NDArray[np.float32]:
    """Voxels of a scan for drawing only: slices that can no longer be read are NaN.

    napari reads them while it draws, so that an error would repeat with every slice; it is reported
    once, and again only after a slice could be read.

    Parameters
    ----------
    volume : Scan
        Scan.

    Returns
    -------
    (Z, Y, X) float32 array
        ``volume.data`` itself, or, if it is lazy, one with a name that identifies its scan.
    """
    if not volume.lazy:
        return volume.data
    data: Any = volume.data
    reported = False

    def block(block_info: Any = None) -> npt.NDArray[np.float32]:
        nonlocal reported
        part = data.blocks[tuple(block_info[None]["chunk-location"])]
        try:
            # This already runs in one of dask's threads.
            voxels: npt.NDArray[np.float32] = part.compute(scheduler="synchronous")
        except SpatialARError as error:
            if not reported:
                reported = True
                report(error, "Drawing a slice")
            return np.full(part.shape, np.nan, np.float32)
        reported = False
        return voxels

    drawn: npt.NDArray[np.float32] = da.map_blocks(  # type: ignore[no-untyped-call]
        block, chunks=data.chunks, dtype=np.float32, name=f"drawn-{data.name}"
    )
    return drawn
