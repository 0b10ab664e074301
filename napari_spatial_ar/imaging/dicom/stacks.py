"""Which frames of a DICOM series are slices of one volume."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from napari_spatial_ar.imaging.dicom.frames import Frame
from napari_spatial_ar.imaging.dicom.groups import SIGNS
from napari_spatial_ar.imaging.dicom.words import type_words

__all__ = ["SAME_PLACE_MM", "Stack", "find_stacks", "without_copies"]

SAME_PLACE_MM = 1e-4
_SAME_AXES = 1e-3


@dataclass(frozen=True, eq=False)
class Stack:
    """Frames of one volume, sorted along their normal where they are located.

    ``words`` says what it is among the volumes of its series ("echo 2"), ``apart`` by what it
    was told from images at the same places.
    """

    frames: tuple[Frame, ...]
    words: str = ""
    apart: str = ""

    @property
    def first(self) -> Frame:
        """First frame."""
        return self.frames[0]


def without_copies(frames: Sequence[Frame]) -> tuple[list[Frame], int]:
    """Frames each once, and how many are left out because their file is a copy of another."""
    seen: set[tuple[str, int]] = set()
    once = []
    for frame in frames:
        key = (frame.instance, frame.number)
        if not frame.instance or key not in seen:
            once.append(frame)
        seen.add(key)
    return once, len(frames) - len(once)


def find_stacks(frames: Sequence[Frame]) -> list[Stack]:
    """Sort the frames of a series into volumes, in the order they are met.

    Frames of one volume share what `Kind` says, size and orientation; where they lie at the
    same places, one of `SIGNS` or their numbering sets them apart.
    """
    firm: dict[Hashable, list[list[Frame]]] = {}
    for frame in frames:
        groups = firm.setdefault((frame.kind.firm, frame.shape, frame.located), [])
        for group in groups:
            if _parallel(group[0], frame):
                group.append(frame)
                break
        else:
            groups.append([frame])
    stacks = [
        stack
        for groups in firm.values()
        for group in groups
        for soft in _by_soft_kind(group)
        for stack in _by_place(soft)
    ]
    return _named(stacks)


def _parallel(one: Frame, other: Frame) -> bool:
    if one.axes is None or other.axes is None:
        return True
    return bool(np.abs(one.axes - other.axes).max() <= _SAME_AXES)


def _by_soft_kind(frames: list[Frame]) -> list[list[Frame]]:
    """Set apart by echo, time point and b-value, unless every slice has its own."""
    groups: dict[Hashable, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(frame.kind.soft, []).append(frame)
    alone = all(len(group) == 1 for group in groups.values())
    if alone and frames[0].located:
        places = len(_places(frames))
        film = places == 1 and len({(f.kind.echo, f.kind.b_value) for f in frames}) == 1
        if film or places == len(frames):
            return [frames]
    return list(groups.values())


def _places(frames: Iterable[Frame]) -> set[int]:
    """Heights along the normal, in units of what counts as one place."""
    heights = sorted(frame.height for frame in frames if frame.located)
    places: set[int] = set()
    last = -np.inf
    for height in heights:
        if height - last >= SAME_PLACE_MM:
            places.add(round(height / SAME_PLACE_MM))
        last = height
    return places


def _by_place(frames: list[Frame]) -> list[Stack]:
    """One stack; or several, if images at the same places can be told apart cleanly."""
    if not frames[0].located:
        return [Stack(tuple(frames))]
    frames = sorted(frames, key=attrgetter("height"))
    places = len(_places(frames))
    if frames[0].mosaic:
        return [Stack((frame,)) for frame in sorted(frames, key=_numbering)]
    if places == 1:
        frames.sort(key=_moment)
    if places in (1, len(frames)) or len(frames) % places:
        return [Stack(tuple(frames))]
    count = len(frames) // places
    for number, sign in enumerate(SIGNS):
        groups: dict[Hashable, list[Frame]] = {}
        for frame in frames:
            groups.setdefault(frame.signs[number], []).append(frame)
        if len(groups) == count and all(
            len(group) == len(_places(group)) == places for group in groups.values()
        ):
            ordered = sorted(groups.items(), key=_sign_order)
            return _told_apart([group for _, group in ordered], sign)
    return _by_numbering(frames, places, count)


def _sign_order(item: tuple[Hashable, list[Frame]]) -> tuple[str, float, tuple[int, int]]:
    """Sort numbers as numbers, times as text, anything else as numbered."""
    sign, group = item
    text = sign if isinstance(sign, str) else ""
    number = float(sign) if isinstance(sign, int | float) else -np.inf
    return text, number, min(map(_numbering, group))


def _moment(frame: Frame) -> tuple[float, float, tuple[int, int]]:
    """Order of images at one place."""
    phase = frame.signs[SIGNS.index("trigger time")]
    return float(phase or 0), float(frame.kind.time or 0), _numbering(frame)


def _numbering(frame: Frame) -> tuple[int, int]:
    return frame.order, frame.number


def _by_numbering(frames: list[Frame], places: int, count: int) -> list[Stack]:
    """Nth image at each place, by InstanceNumber and frame number; one stack if that fails."""
    numbers = {_numbering(frame) for frame in frames}
    at: list[list[Frame]] = []
    for frame in frames:
        if at and frame.height - at[-1][-1].height < SAME_PLACE_MM:
            at[-1].append(frame)
        else:
            at.append([frame])
    if len(numbers) < len(frames) or len(at) != places or {len(group) for group in at} != {count}:
        return [Stack(tuple(frames))]
    for group in at:
        group.sort(key=_numbering)
    return _told_apart([[group[n] for group in at] for n in range(count)], "their numbering alone")


def _told_apart(groups: list[list[Frame]], sign: str) -> list[Stack]:
    return [
        Stack(tuple(group), words=f"{number + 1} of {len(groups)}", apart=sign)
        for number, group in enumerate(groups)
    ]


def _named(stacks: list[Stack]) -> list[Stack]:
    """Give each volume of a series words that no other has."""
    if len(stacks) < 2:
        return stacks
    kinds = [stack.first.kind for stack in stacks]
    times = sorted({kind.time for kind in kinds if kind.time is not None})
    words = []
    for stack, kind in zip(stacks, kinds, strict=True):
        said = []
        if len({other.image_type for other in kinds}) > 1:
            said.append(type_words(kind.image_type))
        if len({other.echo for other in kinds}) > 1 and kind.echo is not None:
            effective = stack.first.storage.frames > 1
            said.append(f"echo {kind.echo:g}" + (" ms" if effective else ""))
        if len({other.b_value for other in kinds}) > 1 and kind.b_value is not None:
            said.append(f"b {kind.b_value:g}")
        if len(times) > 1 and kind.time is not None:
            said.append(f"time {times.index(kind.time) + 1} of {len(times)}")
        said.append(stack.words)
        words.append(", ".join(word for word in said if word))
    named = []
    for number, (stack, said_of) in enumerate(zip(stacks, words, strict=True)):
        if words.count(said_of) > 1 or not said_of:
            same = [n for n, other in enumerate(words) if other == said_of]
            nth = f"stack {same.index(number) + 1} of {len(same)}" if len(same) > 1 else ""
            said_of = ", ".join(word for word in (said_of, nth) if word)
        named.append(Stack(stack.frames, said_of, stack.apart))
    return named
