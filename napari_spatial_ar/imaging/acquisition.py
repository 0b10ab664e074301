"""How a scan was acquired, according to its header or file name, in a closed vocabulary.

Names of protocols, series and files are free text that may name a patient. They are searched for
technical terms here and stored nowhere: this module returns one of a few values that are safe to
store in a model and to write into a report.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, cast, get_args

from napari_spatial_ar.errors import InputError

__all__ = [
    "Acquisition",
    "Kernel",
    "Plane",
    "SequenceName",
    "acquisition_of_files",
    "read_acquired",
    "words_of",
]

Plane = Literal["axial", "coronal", "sagittal"]
#: Weighting of an MR image, or the technique if that is more specific; "" if unknown.
SequenceName = Literal[
    "", "FLAIR", "T1", "T2", "T2*", "PD", "STIR", "DWI", "ADC", "SWI", "TOF", "BOLD", "perfusion"
]
#: Convolution kernel of a CT: for soft tissue, or for bone and lung.
Kernel = Literal["", "soft", "sharp"]


@dataclass(frozen=True)
class Acquisition:
    """What is known about how a scan was acquired.

    Parameters
    ----------
    sequence : str
        See `SequenceName`.
    contrast_agent : bool or None
        Whether a contrast agent was given; None if unknown.
    kernel : {"", "soft", "sharp"}
        Reconstruction kernel of a CT.
    modality : {"", "mri", "ct"}
        According to a file name, for formats without a field for it.
    by_name : bool
        Whether it comes from the file's name, which may be wrong, and not from a header.
    """

    sequence: SequenceName = ""
    contrast_agent: bool | None = None
    kernel: Kernel = ""
    modality: Literal["", "mri", "ct"] = ""
    by_name: bool = False


# Words in names of protocols, series and files, with other neighbours than the excluded letters:
# "sagT1", "T1w", "T1MPRAGE" and "t1_mprage" all have one, "AT1R" has none.
_BEFORE = r"(?<![a-z0-9])(?:ax|axial|sag|sagittal|cor|coronal|tra|trans|obl|[23]d|se|tse|fse|gre)?"
_SEQUENCES: tuple[tuple[SequenceName, str], ...] = (
    ("FLAIR", r"flair|dark.?fluid|(?<![a-z0-9])t2f(?![a-z0-9])"),
    ("T2*", _BEFORE + r"t2(?:\*|[-_. ]?star|[-_. ]?gre(?![a-z]))"),
    (
        "T1",
        _BEFORE + r"t1(?!\d|[-_. ]?(?:map|rho))|mp2?rage|unit1(?!\d)|"
        r"(?<![a-z])(?:tfl(?:3d)?|f?spgr|bravo|vibe)",
    ),
    ("T2", _BEFORE + r"t2(?!\d|\*|f(?![a-z])|[-_. ]?(?:star|gre|map|flair|dark|prep))"),
    # Not PD alone, which is a disease too.
    ("PD", _BEFORE + r"(?:pd[-_. ]?(?:wi?|fs|tse|fse|se)(?![a-z0-9])|proton.?density)"),
    ("STIR", r"(?<![a-z])stir(?![a-z])"),
    ("ADC", r"(?<![a-z])e?adc(?![a-z])"),
    ("DWI", r"(?<![a-z])(?:dwi|dti|diff|diffusion|tracew?|[a-z]*ep_b\d+)(?![a-z])"),
    ("SWI", r"(?<![a-z])(?:swi|swan|suscept\w*)(?![a-z])"),
    ("TOF", r"(?<![a-z])tof(?![a-z])"),
    ("BOLD", r"(?<![a-z])(?:bold|fmri)(?![a-z])"),
    ("perfusion", r"(?<![a-z])(?:perf|perfusion|pwi|dsc|dce|asl|pcasl)(?![a-z])"),
)
# Terms beside these weightings only describe how they were acquired.
_WEIGHTINGS = {"T1", "T2", "PD"}
_WITH_AGENT = (
    r"(?<![a-z])(?:gd|gad|gado|gadolinium|ce|post[-_. ]?(?:gd|contrast|con)|contrast|cect|cta|km)"
    r"(?![a-z])|(?<![a-z0-9])t1[-_. ]?w?[-_. ]?(?:c|ce|gd|km|\+c|post)(?![a-z])|\+ ?(?:c|gd|km)\b"
)
_WITHOUT_AGENT = (
    r"(?<![a-z])(?:native?|plain|ncct|nect|pre[-_. ]?(?:gd|contrast)|"
    r"(?:non?|w/?o|without|ohne)[-_. ]?(?:contrast|ce|gd|km))(?![a-z])|(?<![a-z0-9])t1n(?![a-z])"
)
_CT = r"(?<![a-z])(?:ct|cta|ctp|cect|ncct|nect|hrct|cbct)(?![a-z])"
_MR = r"(?<![a-z])(?:mri|mra)(?![a-z])"  # "Mr" precedes names


@lru_cache(maxsize=4096)
def words_of(text: str) -> Acquisition:
    """Parse names of protocols, series or files; nothing if they are ambiguous."""
    text = text.lower()
    found = {name for name, pattern in _SEQUENCES if re.search(pattern, text)}
    if len(found - _WEIGHTINGS) == 1 and found != {"FLAIR", "T1"}:
        # "T2 FLAIR", "SWI T2": but a T1 FLAIR, or the FLAIR of time point T1, may be either.
        found -= _WEIGHTINGS
    sequence: SequenceName = found.pop() if len(found) == 1 else ""
    agent: bool | None = None
    if re.search(_WITHOUT_AGENT, text):
        agent = False
    elif re.search(_WITH_AGENT, text):
        agent = True
    is_ct = bool(re.search(_CT, text))
    is_mr = bool(sequence or re.search(_MR, text))
    modality: Literal["", "mri", "ct"] = "" if is_ct == is_mr else "ct" if is_ct else "mri"
    return Acquisition(sequence, agent, "", modality)


def acquisition_of_files(files: Sequence[Path]) -> Acquisition:
    """Parse the name of a scan's file, and if that has no information, its folder's."""
    if not files:
        return Acquisition()
    own = words_of(files[0].name) if len(files) == 1 else Acquisition()
    folder = words_of(files[0].parent.name)
    found = Acquisition(
        own.sequence or folder.sequence,
        folder.contrast_agent if own.contrast_agent is None else own.contrast_agent,
        "",
        own.modality or folder.modality,
    )
    return found if found == Acquisition() else replace(found, by_name=True)


def read_acquired(text: str) -> tuple[Plane | None, Acquisition]:
    """Parse a person's description of scans, such as ``"axial FLAIR"`` or ``"soft contrast"``.

    Returns
    -------
    Plane or None, Acquisition
        None where no plane is named.

    Raises
    ------
    InputError
        If a word is none of those that are known.
    """
    plane: Plane | None = None
    found = Acquisition()
    by_key: dict[str, SequenceName] = {name.lower(): name for name in get_args(SequenceName)}
    for word in text.replace(",", " ").split():
        key = word.lower()
        if key in get_args(Plane):
            plane = cast(Plane, key)
        elif key in by_key:
            found = replace(found, sequence=by_key[key])
        elif key in ("contrast", "no-contrast"):
            found = replace(found, contrast_agent=key == "contrast")
        elif key in ("soft", "sharp"):
            found = replace(found, kernel=cast(Kernel, key))
        else:
            known = [*get_args(Plane), *filter(None, get_args(SequenceName))]
            raise InputError(
                f"'{word}' is not a known term for how scans were acquired",
                fix=f"Choose from {', '.join(known)}, contrast, no-contrast, soft and sharp",
            )
    return plane, found
