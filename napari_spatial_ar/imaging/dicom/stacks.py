"""Sorting the frames of a DICOM series into volumes.

Images are separated by what is known about them: their weighting, time of acquisition, and the
scanner's counters. Each such sign is tried alone, and is accepted if the images that share a value
occur at the same positions once, or equally often. If the time differs from slice to slice, the
order in time decides. InstanceNumber, to which the standard gives no meaning, is used only if it
runs through the positions repeatedly in one order, or counts all images of a position before the
next.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.imaging.dicom.frames import Frame
from napari_spatial_ar.imaging.dicom.groups import CLOCKS, SIGNS, TIMES
from napari_spatial_ar.imaging.dicom.places import places_of, same_place_mm, seem_missing, uneven
from napari_spatial_ar.imaging.dicom.words import type_words

__all__ = ["Stack", "alike", "differences", "find_stacks", "same_place_of"]

Indices = npt.NDArray[np.intp]

_SAME_AXES = 1e-3
_SAME_SPACING = 1e-3
# Runs of fewer slices are too short to judge whether they are even.
_FEWEST_IN_RUN = 3
_NUMBERING = "their numbering alone"
_BESIDE = "place within the slice"
_INDEX = "dimension index"
# Stated in the name of the volume.
_NAMED = frozenset({"temporal position"})
_ASIDE_MM = 1.0


@dataclass(frozen=True, eq=False)
class Stack:
    """Frames of one volume, sorted along their normal if they have positions.

    ``words`` identifies it among the volumes of its series ("echo 2"), ``signs`` are what
    distinguished it from images at the same positions, ``remarks`` are the warnings about that.
    """

    frames: tuple[Frame, ...]
    words: str = ""
    signs: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def first(self) -> Frame:
        """First frame."""
        return self.frames[0]


def find_stacks(frames: Sequence[Frame]) -> list[Stack]:
    """Sort the frames of a series into volumes, in the order of their first frames.

    Frames of one volume share their `Kind`, modality, size, pixel spacing and orientation; those at
    the same positions or in several runs are separated by one of `SIGNS`, their order in time or
    their numbering.
    """
    firm: dict[Hashable, list[list[Frame]]] = {}
    for frame in frames:
        key = (frame.kind.firm, frame.modality, frame.shape, frame.located)
        groups = firm.setdefault(key, [])
        for group in groups:
            if alike(group[0], frame):
                group.append(frame)
                break
        else:
            groups.append([frame])
    stacks = [stack for groups in firm.values() for group in groups for stack in _volumes_of(group)]
    return _named(stacks)


def _volumes_of(group: list[Frame]) -> list[Stack]:
    """Volumes of similar frames; those that lack slices present in another are marked."""
    stacks = [stack for weighted in _by_weighting(group) for stack in _by_place(weighted)]
    if len(stacks) < 2 or not group[0].located or group[0].sheet:
        return stacks
    layout = _Layout(group)
    place_of = {id(f): int(k) for f, k in zip(layout.frames, layout.places, strict=True)}
    places = [frozenset(place_of[id(frame)] for frame in stack.frames) for stack in stacks]
    marked = []
    for stack, own in zip(stacks, places, strict=True):
        whole = max((len(other) for other in places if own < other), default=0)
        remarks = stack.remarks
        if whole:
            remarks += (
                f"It has {len(own)} of {whole} slices: the others were not acquired or are "
                "missing, so it is incomplete.",
            )
        marked.append(replace(stack, remarks=remarks))
    return marked


def differences(stacks: Sequence[Stack]) -> tuple[str, ...]:
    """Return what distinguished several stacks of a series, in words."""
    firsts = [stack.first for stack in stacks]
    kinds = [frame.kind for frame in firsts]
    first = firsts[0]
    turned = {_parallel(first, frame) for frame in firsts}
    zoomed = {_same_spacing(first, frame) for frame in firsts}
    found: dict[str, set[Any]] = {
        "file": {kind.alone for kind in kinds},
        "orientation": turned,
        "size": {frame.shape for frame in firsts},
        "pixel spacing": zoomed,
        "image type": {kind.component for kind in kinds},
        "stack": {kind.stack for kind in kinds},
        "echo": {kind.echo for kind in kinds},
        "b-value": {kind.b_value for kind in kinds},
    }
    signs = dict.fromkeys(sign for stack in stacks for sign in stack.signs)
    return (*(word for word, values in found.items() if len(values) > 1), *signs)


def alike(one: Frame, other: Frame) -> bool:
    """Whether two frames are parallel and have pixels of one size."""
    return _parallel(one, other) and _same_spacing(one, other)


def _parallel(one: Frame, other: Frame) -> bool:
    if one.axes is None or other.axes is None:
        return True
    return bool(np.abs(one.axes - other.axes).max() <= _SAME_AXES)


def _same_spacing(one: Frame, other: Frame) -> bool:
    if one.spacing is None or other.spacing is None:
        return one.spacing == other.spacing
    return bool(np.allclose(one.spacing, other.spacing, rtol=_SAME_SPACING, atol=0))


def same_place_of(frames: Sequence[Frame]) -> float:
    """Maximum distance along the normal, mm, of images at one position."""
    first = frames[0]
    # If no thickness is given: slices are usually thicker than pixels are wide.
    thickness = first.thickness or 4 * max(first.spacing or (1.0,))
    heights = np.array([frame.position for frame in frames]) @ first.normal
    return same_place_mm(heights, thickness)


def _by_weighting(frames: list[Frame]) -> list[list[Frame]]:
    """Separate by echo and b-value, unless every slice has its own."""
    groups: dict[Hashable, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(frame.kind.weighting, []).append(frame)
    alone = len(groups) == len(frames) > 1 and frames[0].located
    if alone and _Layout(frames).count == len(frames):
        return [frames]
    return list(groups.values())


class _Layout:
    """Located frames sorted along their normal, with what is needed to divide them."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        normal = frames[0].normal
        heights = np.array([frame.position for frame in frames]) @ normal
        order = np.argsort(heights, kind="stable")
        self.normal = normal
        self.met = order
        self.frames = [frames[k] for k in order]
        self.positions = np.array([frame.position for frame in self.frames])
        self.same = same_place_of(frames)
        self.places = places_of(heights[order], self.same)
        self.count = int(self.places[-1]) + 1
        self.all: Indices = np.arange(len(frames))

    def of(self, part: Indices) -> tuple[Frame, ...]:
        """Frames of a part."""
        return tuple(self.frames[k] for k in part)

    @cached_property
    def signs(self) -> dict[str, list[Any]]:
        """Values of each sign that differs between frames."""
        signs = {name: [f.signs[n] for f in self.frames] for n, name in enumerate(SIGNS)}
        widest = max(len(frame.index) for frame in self.frames)
        for n in range(widest):
            values = [f.index[n] if n < len(f.index) else None for f in self.frames]
            signs[f"{_INDEX} {n + 1}"] = values
        assert self.frames[0].axes is not None
        aside = (self.positions - self.positions[0]) @ self.frames[0].axes.T
        signs[_BESIDE] = [tuple(a) for a in np.round(aside / _ASIDE_MM).astype(int).tolist()]
        return {name: values for name, values in signs.items() if len(set(values)) > 1}

    def classes(self, part: Indices, name: str) -> list[Indices]:
        """Parts of a part that share a value, by value; named values in order of appearance."""
        values, groups = self.signs[name], dict[Hashable, list[int]]()
        for k in part:
            groups.setdefault(values[k], []).append(int(k))
        if name in _NAMED:
            ordered = sorted(groups.values(), key=lambda g: min(self.met[g]))
        else:
            ordered = [group for _, group in sorted(groups.items(), key=self._order)]
        return [np.array(group) for group in ordered]

    def _order(self, item: tuple[Hashable, list[int]]) -> tuple[str, float, tuple[int, int]]:
        """Sort numbers as numbers, times as text, anything else by image number."""
        value, group = item
        text = value if isinstance(value, str) else ""
        number = float(value) if isinstance(value, int | float) else -np.inf
        return text, number, min(_numbering(self.frames[k]) for k in group)

    def counts(self, part: Indices) -> npt.NDArray[np.intp]:
        """Count the images of a part at each position."""
        return np.bincount(self.places[part], minlength=self.count)

    def distinct(self, part: Indices) -> bool:
        """Whether each image has its own position."""
        return len(np.unique(self.places[part])) == len(part)

    def even(self, part: Indices) -> bool:
        """Whether each image has its own position, at even steps on one line."""
        return self.distinct(part) and not uneven(self.positions[part], self.normal, self.same)

    def plausible(self, part: Indices) -> bool:
        """Whether it is even, or would be if slices were not missing."""
        return self.even(part) or (
            self.distinct(part) and seem_missing(self.positions[part], self.normal, self.same) > 0
        )

    def overlap(self, parts: Sequence[Indices]) -> bool:
        """Whether the ranges of several parts along the normal have a common position."""
        ends = [self.places[part][[0, -1]] for part in parts]
        return bool(max(first for first, _ in ends) < min(last for _, last in ends))


def _numbering(frame: Frame) -> tuple[int, int]:
    return frame.order, frame.number


def _moment(frame: Frame) -> tuple[float, float, tuple[int, int]]:
    """Order of images at one position."""
    phase = frame.signs[SIGNS.index("trigger time")]
    return float(phase or 0), float(frame.kind.time or 0), _numbering(frame)


def _by_place(frames: list[Frame]) -> list[Stack]:
    """One stack; or several, if images at the same positions can be distinguished cleanly."""
    if frames[0].sheet:
        return [Stack((frame,)) for frame in sorted(frames, key=_numbering)]
    if not frames[0].located:
        return [Stack(tuple(frames))]
    layout = _Layout(frames)
    if layout.count == 1:
        return [Stack(tuple(sorted(frames, key=_moment)))]
    parts = list(_divide(layout, layout.all))
    if len(parts) == 1:
        return [Stack(layout.of(layout.all))]
    unnamed = any(sign not in _NAMED for part in parts for sign in part.signs)
    stacks = []
    for number, part in enumerate(parts, 1):
        words = f"{number} of {len(parts)}" if unnamed else ""
        stacks.append(Stack(layout.of(part.images), words, part.signs, _remarks(part)))
    return stacks


@dataclass(frozen=True, eq=False)
class _Part:
    """Images of one volume, and the signs that distinguish it; as runs of slices or not."""

    images: Indices
    signs: tuple[str, ...] = ()
    run: bool = False

    def split_by(self, sign: str) -> _Part:
        signs = self.signs if sign in self.signs else (sign, *self.signs)
        return replace(self, signs=signs)


def _remarks(part: _Part) -> tuple[str, ...]:
    signs = [sign for sign in part.signs if sign not in _NAMED]
    if not signs:
        return ()
    lie = "The slices are in several runs" if part.run else "Several images are at each position"
    return (f"{lie}; they were set apart by {' and '.join(signs)}.",)


def _divide(layout: _Layout, part: Indices) -> Iterator[_Part]:
    """Divide images into volumes by the first sign that does so cleanly; else leave them."""
    most = int(layout.counts(part).max())
    if most == 1 and layout.even(part):
        yield _Part(part)
        return
    if most > 1:
        for name in layout.signs:
            classes = layout.classes(part, name)
            if len(classes) > 1 and _fill_the_places(layout, part, classes, name):
                for group in classes:
                    yield from (leaf.split_by(name) for leaf in _divide(layout, group))
                return
        volumes, name = _by_order(layout, part)
        if volumes:
            yield from (_Part(volume, (name,)) for volume in volumes)
            return
    runs, name = _runs(layout, part)
    yield from (_Part(run, (name,), run=True) for run in runs)
    if not runs:
        yield _Part(part)


def _fill_the_places(layout: _Layout, part: Indices, classes: Sequence[Indices], name: str) -> bool:
    """Whether images that share a value occur equally often at all positions of a part.

    One class may lack images at some positions because the acquisition was stopped; for times, it
    must be the last. For other signs, which do not change within a volume, half of the classes may
    because files are missing, if no class has two images at one position.
    """
    there = np.flatnonzero(layout.counts(part))
    # Most classes are complete, which limits their number: this avoids checking thousands.
    if len(there) * len(classes) > 2 * len(part):
        return False
    incomplete = []
    for number, group in enumerate(classes):
        counts = layout.counts(group)[there]
        if counts.min() < counts.max() - 1:
            return False
        if counts.min() < counts.max():
            incomplete.append(number)
    if name in TIMES:
        return incomplete in ([], [len(classes) - 1])
    if len(incomplete) <= 1:
        return True
    apart = all(layout.distinct(group) for group in classes)
    return apart and 2 * len(incomplete) <= len(classes)


def _by_order(layout: _Layout, part: Indices) -> tuple[list[Indices], str]:
    """Volumes by the order of images in time or by number, and which it was; none if it is unclear.

    A counter that runs through the positions in one order must agree with the time at each
    position, or neither is trusted.
    """
    for name in CLOCKS:
        found = _in_order(layout, part, name)
        if found:
            return found, name
    counted = _in_order(layout, part, _NUMBERING)
    for name, measured in CLOCKS.items():
        found = _in_order(layout, part, name, anyway=True) if measured else []
        if found and counted and _as_sets(found) != _as_sets(counted):
            return [], ""
        if found:
            return found, name
    return counted, _NUMBERING


def _as_sets(volumes: Sequence[Indices]) -> set[frozenset[int]]:
    return {frozenset(volume.tolist()) for volume in volumes}


def _in_order(layout: _Layout, part: Indices, name: str, *, anyway: bool = False) -> list[Indices]:
    """Volumes by one of `CLOCKS` or the numbering; none if it has no recognisable order.

    With ``anyway`` the nth image at each position belongs to volume n, whatever the order of
    positions, if all have the same number of images.
    """
    if name == _NUMBERING:
        keys: list[Any] = [_numbering(layout.frames[k]) for k in part]
        known = len(set(keys)) == len(keys)
    elif name in layout.signs:
        keys = [layout.signs[name][k] for k in part]
        known = None not in keys
    else:
        return []
    places = np.unique(layout.places[part], return_inverse=True)[1]
    if not known or len(set(zip(keys, places.tolist(), strict=True))) < len(keys):
        return []
    order = np.array(sorted(range(len(part)), key=lambda k: (keys[k], places[k])))
    images, sequence = part[order], places[order]
    counts = np.bincount(sequence)
    most = int(counts.max())
    found = _sweeps(images, sequence, len(counts), most, counted=name == _NUMBERING)
    if not found and _place_by_place(sequence, counts):
        found = _nth(images, sequence, most)
    if not found and anyway and bool((counts == most).all()):
        found = _nth(images, sequence, most)
    return [np.sort(volume) for volume in found]


def _sweeps(
    images: Indices, sequence: Indices, count: int, most: int, *, counted: bool
) -> list[Indices]:
    """Volumes if the positions are passed, in one order, as many times as most have images.

    If there is only a counter, an order that is neither ascending nor descending may be due to
    chance: then only the last volume, cut short, may lack images.
    """
    first = sequence[:count]
    for order in (np.arange(count), np.arange(count)[::-1], first):
        if len(set(order.tolist())) < count:
            continue
        rank = np.argsort(order)[sequence]
        starts = np.flatnonzero(np.diff(rank) <= 0) + 1
        if len(starts) + 1 != most:
            continue
        if counted and order is first and not np.array_equal(rank, np.arange(len(rank)) % count):
            continue
        return np.split(images, starts)
    return []


def _place_by_place(sequence: Indices, counts: Indices) -> bool:
    """Whether all images of a position are consecutive; at the last one, some may be missing."""
    changes = np.flatnonzero(np.diff(sequence)) + 1
    short = np.flatnonzero(counts < counts.max())
    stopped = not len(short) or short.tolist() == [int(sequence[-1])]
    return len(changes) == len(counts) - 1 and stopped


def _nth(images: Indices, sequence: Indices, most: int) -> list[Indices]:
    """Nth image at each position, for each n."""
    seen: dict[int, int] = {}
    volumes: list[list[int]] = [[] for _ in range(most)]
    for image, place in zip(images.tolist(), sequence.tolist(), strict=True):
        volumes[seen.get(place, 0)].append(image)
        seen[place] = seen.get(place, 0) + 1
    return [np.array(volume) for volume in volumes]


def _runs(layout: _Layout, part: Indices) -> tuple[list[Indices], str]:
    """Find runs of slices that overlap or follow each other, and the sign that separates them.

    A stack that is even except for missing slices is one run, whatever its headers state.
    """
    if layout.plausible(part):
        return [], ""
    for fits in (layout.even, layout.plausible):
        for name in layout.signs:
            classes = layout.classes(part, name)
            # These may change within a stack, but not back and forth.
            if (name in TIMES or name == _BESIDE) and not layout.overlap(classes):
                continue
            if len(classes) > 1 and all(_is_run(group) and fits(group) for group in classes):
                return classes, name
    for name in (*CLOCKS, _NUMBERING) if layout.distinct(part) else ():
        runs = _back_and_again(layout, part, name)
        if len(runs) > 1 and all(_is_run(group) and layout.plausible(group) for group in runs):
            return runs, name
    return [], ""


def _is_run(group: Indices) -> bool:
    return len(group) >= _FEWEST_IN_RUN


def _back_and_again(layout: _Layout, part: Indices, name: str) -> list[Indices]:
    """Divide into runs in one direction along the normal, by a time or by their numbers."""
    if name == _NUMBERING:
        keys: list[Any] = [_numbering(layout.frames[k]) for k in part]
    else:
        keys = [layout.signs[name][k] for k in part] if name in layout.signs else []
    if None in keys or len(set(keys)) < len(part):
        return []
    images = np.array([int(part[k]) for k in sorted(range(len(part)), key=keys.__getitem__)])
    forth = np.sign(np.diff(layout.places[images]))
    main = 1 if forth.sum() > 0 else -1
    return [np.sort(run) for run in np.split(images, np.flatnonzero(forth != main) + 1)]


def _named(stacks: list[Stack]) -> list[Stack]:
    """Give each volume of a series a unique name."""
    if len(stacks) < 2:
        return stacks
    kinds = [stack.first.kind for stack in stacks]
    times = sorted({kind.time for kind in kinds if kind.time is not None})
    words = []
    for stack, kind in zip(stacks, kinds, strict=True):
        parts = []
        if len({other.image_type for other in kinds}) > 1:
            parts.append(type_words(kind.image_type))
        if len({other.echo for other in kinds}) > 1 and kind.echo is not None:
            effective = stack.first.storage.frames > 1
            parts.append(f"echo {kind.echo:g}" + (" ms" if effective else ""))
        if len({other.b_value for other in kinds}) > 1 and kind.b_value is not None:
            parts.append(f"b {kind.b_value:.0f}")
        if len(times) > 1 and kind.time is not None:
            parts.append(f"time {times.index(kind.time) + 1} of {len(times)}")
        parts.append(stack.words)
        words.append(", ".join(word for word in parts if word))
    named = []
    for number, (stack, text) in enumerate(zip(stacks, words, strict=True)):
        if words.count(text) > 1 or not text:
            same = [n for n, other in enumerate(words) if other == text]
            nth = f"stack {same.index(number) + 1} of {len(same)}" if len(same) > 1 else ""
            text = ", ".join(word for word in (text, nth) if word)
        named.append(replace(stack, words=text))
    return named
