"""Scans of a folder to be read: their state, their order, and how they sort."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

__all__ = [
    "Entry",
    "Reading",
    "State",
    "Summary",
    "next_unread",
    "order_of_need",
    "overview",
    "sort_value",
    "toggled",
]

State = Literal["waiting", "scoring", "scored", "failed"]
Reading = Literal["unread", "seen", "done"]

Column = Literal["scan", "description", "slices", "score", "p", "findings", "state", "reading"]


@dataclass(frozen=True)
class Summary:
    """Summary of a completely scored scan.

    Parameters
    ----------
    score : float or None
        `scan_score`, in the model's unit; None if no slice has body.
    p_value : float or None
        P-value of the whole scan; None if the model has no p-values.
    patients : int
        Normal patients that the p-value is based on; 0 without one.
    findings : int or None
        Number of regions of the mask, without rejected ones; None if no threshold is known.
    threshold : float or None
        Threshold of the mask, in the model's unit.
    """

    score: float | None = None
    p_value: float | None = None
    patients: int = 0
    findings: int | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class Entry:
    """One scan of a worklist.

    Parameters
    ----------
    key : str
        Identifies the scan on disk, see `scan_key`; for a file without a scan, a key that no scan
        has.
    label : str
        As in `Series`: names no patient.
    description : str
        As in `Series`, or the file's name: for the screen only.
    slices, done : int
        Number of slices to score, and of slices scored so far.
    state : {"waiting", "scoring", "scored", "failed"}
        Progress of scoring.
    reading : {"unread", "seen", "done"}
        Progress of the reader.
    summary : Summary
        Once scored.
    trouble : str
        Why it failed: a sentence, for the screen only.
    reason : str
        The same without the file's name.
    """

    key: str
    label: str
    description: str = ""
    slices: int = 0
    done: int = 0
    state: State = "waiting"
    reading: Reading = "unread"
    summary: Summary = Summary()
    trouble: str = ""
    reason: str = ""

    def at(self, done: int, slices: int) -> Entry:
        """Return it in the state "scoring"."""
        return replace(self, state="scoring", done=done, slices=slices, trouble="")

    def scored(self, summary: Summary) -> Entry:
        """Return it in the state "scored"."""
        return replace(self, state="scored", done=self.slices, summary=summary, trouble="")

    def failed(self, trouble: str, reason: str = "") -> Entry:
        """Return it in the state "failed"."""
        return replace(self, state="failed", trouble=trouble, reason=reason)

    def again(self) -> Entry:
        """Return it queued again if it failed, else unchanged."""
        if self.state != "failed":
            return self
        return replace(self, state="waiting", trouble="", reason="")

    def set_down(self) -> Entry:
        """Return it queued again after its scoring was stopped."""
        return replace(self, state="waiting") if self.state == "scoring" else self


def order_of_need(entries: Iterable[Entry], open_key: str = "") -> list[str]:
    """Keys of the scans still to be scored, in the order in which they are needed.

    First the open one, then those begun, then unread ones in the order of the list, then those that
    the reader has seen or marked as done.
    """
    left = [e for e in entries if e.state in ("waiting", "scoring")]
    rank = {reading: at for at, reading in enumerate(get_args(Reading))}
    left.sort(key=lambda e: (e.key != open_key, rank[e.reading], not e.done))
    return [entry.key for entry in left]


def sort_value(entry: Entry, column: Column) -> Any:
    """Value to sort a column by; None if there is none, which sorts last in either direction."""
    summary = entry.summary
    states, readings = ("scoring", "waiting", "scored", "failed"), get_args(Reading)
    values: dict[Column, Any] = {
        "scan": entry.label.lower(),
        "description": entry.description.lower() or None,
        "slices": entry.slices or None,
        "score": summary.score,
        "p": summary.p_value,
        "findings": summary.findings,
        "state": (states.index(entry.state), -entry.done / max(1, entry.slices)),
        "reading": readings.index(entry.reading),
    }
    return values[column]


def next_unread(shown: Sequence[Entry], after: str = "") -> str | None:
    """Key of the next unread scan in the order shown, wrapping around at the end.

    Parameters
    ----------
    shown : sequence of Entry
        In the order in which the reader sees them.
    after : str
        Key of the open scan; without one, the search starts at the top.

    Returns
    -------
    str or None
        None if all are read. Scans that failed are skipped.
    """
    keys = [entry.key for entry in shown]
    start = keys.index(after) + 1 if after in keys else 0
    for entry in [*shown[start:], *shown[:start]]:
        if entry.state != "failed" and entry.reading == "unread" and entry.key != after:
            return entry.key
    return None


def toggled(reading: Reading) -> Reading:
    """Toggle between done and seen."""
    return "seen" if reading == "done" else "done"


def overview(entries: Sequence[Entry]) -> str:
    """One line on the progress of scoring and reading."""
    states = [entry.state for entry in entries]
    readings = [entry.reading for entry in entries]
    parts = [f"{states.count('scored')} of {len(entries)} scored"]
    if states.count("failed"):
        parts.append(f"{states.count('failed')} failed")
    parts.append(f"{readings.count('done')} done")
    readable = [e for e in entries if e.state != "failed"]
    parts.append(f"{sum(e.reading == 'unread' for e in readable)} unread")
    return ", ".join(parts)
