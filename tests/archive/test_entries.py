"""Queries as users type them, and what of an answer may be shown."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import pytest

from napari_spatial_ar.archive.entries import DateRange, StudyEntry, StudyQuery, check_uid
from napari_spatial_ar.errors import InputError

NEW_YEAR, EVE = date(2026, 1, 1), date(2025, 12, 31)


@pytest.mark.parametrize(
    ("text", "days", "asked"),
    [
        ("20260101", (NEW_YEAR, NEW_YEAR), "20260101"),
        ("20251231-20260101", (EVE, NEW_YEAR), "20251231-20260101"),
        ("2025-12-31-2026-01-01", (EVE, NEW_YEAR), "20251231-20260101"),
        ("20260101-", (NEW_YEAR, None), "20260101-"),
        ("-20260101", (None, NEW_YEAR), "-20260101"),
    ],
)
def test_ranges_of_dates(text: str, days: tuple[date, date], asked: str) -> None:
    found = DateRange.parse(text)
    assert (found.first, found.last) == days
    assert str(found) == asked


def test_today_and_yesterday_are_this_machines() -> None:
    today = datetime.now().astimezone().date()
    assert DateRange.parse("today") == DateRange(today, today)
    assert DateRange.parse("yesterday-today") == DateRange(today - timedelta(days=1), today)


@pytest.mark.parametrize(
    "text", ["", "-", "2026", "20260230", "20260102-20260101", "01.02.2026", "2026010", "*"]
)
def test_what_is_no_date(text: str) -> None:
    with pytest.raises(InputError, match="YYYYMMDD"):
        DateRange.parse(text)


def test_a_query_of_pairs() -> None:
    query = StudyQuery.parse(["patient-id=P*,modality=ct", "date=20260101"])
    assert query == StudyQuery("P*", modality="CT", dates=DateRange(NEW_YEAR, NEW_YEAR))
    assert StudyQuery().is_empty
    assert not query.is_empty


@pytest.mark.parametrize(
    "texts",
    [
        ["modality"],
        ["sex=F"],
        ["date=20260101", "date=20260102"],
        ["modality=CT\\MR"],
        ["patient-id=a\\b"],
        ["study=1.2.x"],
        ["name=\x1b[31m"],
    ],
)
def test_queries_that_are_none(texts: list[str]) -> None:
    with pytest.raises(InputError):
        StudyQuery.parse(texts)


def test_answers_that_do_not_match_are_seen() -> None:
    study = StudyEntry(
        "1.2", patient_id="P-1", accession="A[1]", date="20260101", modalities=("MR", "SR")
    )
    for fits in (
        StudyQuery(),
        StudyQuery("P-*"),
        StudyQuery(accession="A[1]"),
        StudyQuery(modality="MR"),
        StudyQuery(dates=DateRange(EVE, None)),
    ):
        assert fits.admits(study)
        assert fits.admits(StudyEntry("1.2"))  # which says nothing of it
    for other in (
        StudyQuery("Q"),
        StudyQuery(modality="CT"),
        StudyQuery(dates=DateRange(None, EVE)),
        StudyQuery(study_uid="1.3"),
    ):
        assert not other.admits(study)


def test_no_repr_names_a_patient() -> None:
    study = StudyEntry("1.2", patient_name="Doe^Jane", patient_id="P-1", accession="A-1")
    query = StudyQuery(patient_id="P-1", patient_name="Doe*", accession="A-1")
    for shown in (repr(study), repr(query)):
        assert not any(secret in shown for secret in ("Doe", "P-1", "A-1"))


@pytest.mark.parametrize("uid", ["", "1.2.", "1..2", "1.2/../3", "a", "1." * 33 + "1"])
def test_what_is_no_uid(uid: str) -> None:
    with pytest.raises(InputError, match="not a DICOM UID"):
        check_uid(uid, "study's UID")
