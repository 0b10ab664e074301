"""What is asked of an archive, and what it answers: studies, series and instances.

Patient name, ID and accession number are left out of every ``repr``, so that no log or error
message can contain them by accident.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from fnmatch import fnmatchcase

from napari_spatial_ar.errors import InputError

__all__ = [
    "DateRange",
    "InstanceEntry",
    "SeriesEntry",
    "StudyEntry",
    "StudyQuery",
    "check_uid",
    "series_for",
]

_DAY = re.compile(r"\d{8}|\d{4}-\d\d-\d\d|today|yesterday")
_RANGE = re.compile(rf"(?P<first>{_DAY.pattern})?(?P<to>-)?(?P<last>{_DAY.pattern})?")
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_LONGEST_UID = 64
_LONGEST_VALUE = 64
_CODE = re.compile(r"[A-Z0-9_ ]{1,16}")
_DATE_FIX = "Give YYYYMMDD, YYYYMMDD-YYYYMMDD, YYYYMMDD-, -YYYYMMDD, today or yesterday"


def check_uid(uid: str, what: str) -> str:
    """Return a UID (PS3.5 9.1), or raise `InputError` if it is none."""
    uid = uid.strip()
    if not _UID.fullmatch(uid) or len(uid) > _LONGEST_UID:
        raise InputError(f"the {what} is not a DICOM UID", fix="Copy it from 'archive find'")
    return uid


@dataclass(frozen=True, slots=True)
class DateRange:
    """Days from the first to the last, inclusive; None: open."""

    first: date | None
    last: date | None

    @classmethod
    def parse(cls, text: str) -> DateRange:
        """Read ``FROM-TO``, ``FROM-``, ``-TO`` or one day; a day may be ``today`` or ``yesterday``.

        Raises
        ------
        InputError
            If it is none of these, or no date of the calendar.
        """
        found = _RANGE.fullmatch(text.strip().lower())
        if found is None or not (found["first"] or found["last"]):
            raise InputError(f"'{text}' is not a date or a range of dates", fix=_DATE_FIX)
        first, last = _day(found["first"]), _day(found["last"])
        if not found["to"]:
            last = first
        if first and last and first > last:
            raise InputError(f"the range of dates '{text}' ends before it begins", fix=_DATE_FIX)
        return cls(first, last)

    def __str__(self) -> str:
        """Write the range as an archive matches it (PS3.4 C.2.2.2.5)."""
        first = "" if self.first is None else f"{self.first:%Y%m%d}"
        last = "" if self.last is None else f"{self.last:%Y%m%d}"
        return first if first == last else f"{first}-{last}"

    def admits(self, day: str) -> bool:
        """Whether a day, as YYYYMMDD, is in the range."""
        first = "" if self.first is None else f"{self.first:%Y%m%d}"
        last = "99999999" if self.last is None else f"{self.last:%Y%m%d}"
        return first <= day.replace(".", "") <= last


def _day(text: str | None) -> date | None:
    if not text:
        return None
    if text in ("today", "yesterday"):
        return datetime.now().astimezone().date() - timedelta(days=text == "yesterday")
    try:
        return datetime.strptime(text.replace("-", ""), "%Y%m%d").date()
    except ValueError:
        raise InputError(f"'{text}' is not a date of the calendar", fix=_DATE_FIX) from None


@dataclass(frozen=True, slots=True)
class StudyQuery:
    """What studies to find; "" and None match any.

    Parameters
    ----------
    patient_id, patient_name, accession : str
        Matched by the archive; ``*`` and ``?`` are wildcards.
    dates : DateRange or None
        Study date.
    modality : str
        A study has at least one series of it, such as ``CT``.
    study_uid : str
        StudyInstanceUID.
    """

    patient_id: str = field(default="", repr=False)
    patient_name: str = field(default="", repr=False)
    accession: str = field(default="", repr=False)
    dates: DateRange | None = None
    modality: str = ""
    study_uid: str = ""

    def __post_init__(self) -> None:
        """Refuse values that would mean something else to an archive (`InputError`)."""
        for what, value in (
            ("patient ID", self.patient_id),
            ("patient name", self.patient_name),
            ("accession number", self.accession),
        ):
            if "\\" in value or not value.isprintable() or len(value) > _LONGEST_VALUE:
                raise InputError(
                    f"the {what} contains a backslash or a control character, or is longer than "
                    f"{_LONGEST_VALUE} characters"
                )
        if self.modality and not _CODE.fullmatch(self.modality):
            raise InputError("the modality is not a DICOM code", fix="Give one such as CT or MR")
        if self.study_uid:
            check_uid(self.study_uid, "study's UID")

    @classmethod
    def of(
        cls,
        *,
        patient_id: str | None = None,
        name: str | None = None,
        accession: str | None = None,
        date: str | None = None,
        modality: str | None = None,
        study: str | None = None,
    ) -> StudyQuery:
        """Build a query from texts that a user typed (`InputError` if one is not valid)."""
        return cls(
            patient_id=(patient_id or "").strip(),
            patient_name=(name or "").strip(),
            accession=(accession or "").strip(),
            dates=DateRange.parse(date) if date else None,
            modality=(modality or "").strip().upper(),
            study_uid=(study or "").strip(),
        )

    @classmethod
    def parse(cls, texts: Iterable[str]) -> StudyQuery:
        """Read ``KEY=VALUE`` pairs: patient-id, name, accession, date, modality, study.

        Raises
        ------
        InputError
            If a key is unknown or given twice, or a value is not valid.
        """
        keys = {"patient-id": "patient_id"}
        keys |= {key: key for key in ("name", "accession", "date", "modality", "study")}
        values: dict[str, str] = {}
        for text in texts:
            for pair in text.split(","):
                key, equals, value = pair.partition("=")
                name = keys.get(key.strip().lower())
                if name is None or not equals or name in values:
                    raise InputError(
                        "the query is not a list of KEY=VALUE",
                        fix=f"Use each of these at most once: {', '.join(keys)}",
                    )
                values[name] = value
        return cls.of(**values)

    @property
    def is_empty(self) -> bool:
        """Whether it matches every study."""
        return self == StudyQuery()

    def admits(self, study: StudyEntry) -> bool:
        """Whether a study may match: archives ignore keys that they do not support.

        Values that the archive did not return, and names, which are matched in many ways, are not
        compared.
        """
        pairs = (
            (self.patient_id, study.patient_id),
            (self.accession, study.accession),
            (self.study_uid, study.study_uid),
        )
        if any(want and have and not fnmatchcase(have, _literal(want)) for want, have in pairs):
            return False
        if self.modality and study.modalities and self.modality not in study.modalities:
            return False
        return not (self.dates and study.date) or self.dates.admits(study.date)


def _literal(pattern: str) -> str:
    """Return the pattern with ``[``, which only Python takes as a wildcard, as itself."""
    return pattern.replace("[", "[[]")


@dataclass(frozen=True, slots=True)
class StudyEntry:
    """A study in an archive, as its answer describes it; "" and None: not stated.

    Parameters
    ----------
    study_uid : str
        StudyInstanceUID.
    patient_name, patient_id, accession : str
        Identity, for the screen of whoever asked and for nothing else.
    date, time : str
        Study date, YYYYMMDD, and time, HHMMSS.
    description : str
        StudyDescription.
    modalities : tuple of str
        ModalitiesInStudy.
    series, instances : int or None
        How many it has.
    """

    study_uid: str
    patient_name: str = field(default="", repr=False)
    patient_id: str = field(default="", repr=False)
    accession: str = field(default="", repr=False)
    date: str = ""
    time: str = ""
    description: str = field(default="", repr=False)
    modalities: tuple[str, ...] = ()
    series: int | None = None
    instances: int | None = None


@dataclass(frozen=True, slots=True)
class SeriesEntry:
    """A series in an archive; "" and None: not stated.

    Parameters
    ----------
    study_uid, series_uid : str
        StudyInstanceUID and SeriesInstanceUID.
    modality, description, body_part : str
        Modality, SeriesDescription, BodyPartExamined.
    number : int or None
        SeriesNumber.
    instances : int or None
        NumberOfSeriesRelatedInstances.
    """

    study_uid: str
    series_uid: str
    modality: str = ""
    description: str = field(default="", repr=False)
    body_part: str = ""
    number: int | None = None
    instances: int | None = None


@dataclass(frozen=True, slots=True)
class InstanceEntry:
    """An instance (image or other object) in an archive.

    Parameters
    ----------
    sop_uid : str
        SOPInstanceUID.
    sop_class : str
        SOPClassUID; "" if the archive does not state it.
    number : int or None
        InstanceNumber.
    """

    sop_uid: str
    sop_class: str = ""
    number: int | None = None


# DICOM modalities of those that models are made for.
_MODALITIES = {"mri": {"MR"}, "ct": {"CT"}, "oct": {"OPT", "OCT"}}


def series_for(modality: str, description: str | None = None) -> Callable[[SeriesEntry], bool]:
    """Choose series by the modality of a model, and by their description if one is given.

    Parameters
    ----------
    modality : str
        ``mri``, ``ct`` or ``oct``; any other admits every series.
    description : str, optional
        SeriesDescription; ``*`` and ``?`` are wildcards.
    """
    codes = _MODALITIES.get(modality, set())
    pattern = _literal((description or "*").casefold())

    def admits(series: SeriesEntry) -> bool:
        fits = not codes or series.modality in codes
        return fits and fnmatchcase(series.description.casefold(), pattern)

    return admits
