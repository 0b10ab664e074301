"""Scans of a folder that are to be read: where each stands, which comes first, how they sort."""

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
    """What a scan that is wholly scored comes to.

    Parameters
    ----------
    score : float or None
        `scan_score`, in the model's unit; None where no slice shows body.
    p_value : float or None
        Of the scan as a whole; None where the model has no p-values.
    patients : int
        Normal patients that the p-value rests on; 0 where there is none.
    findings : int or None
        Regions of the mask, those that were rejected left out; None where no threshold is known.
    threshold : float or None
        That of the mask, in the model's unit.
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
        What the scan is known by on disk, see `scan_key`; of a file in which no scan can be found,
        something that no scan has.
    label : str
        As in `Series`: names no patient.
    description : str
        As in `Series`, or the file's name: for the screen only.
    slices, done : int
        Slices that the model sees, and how many of them are scored.
    state : {"waiting", "scoring", "scored", "failed"}
        Where the machine stands.
    reading : {"unread", "seen", "done"}
        Where the reader stands.
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
        """Return it while it is being scored."""
        return replace(self, state="scoring", done=done, slices=slices, trouble="")

    def scored(self, summary: Summary) -> Entry:
        """Return it when it is scored."""
        return replace(self, state="scored", done=self.slices, summary=summary, trouble="")

    def failed(self, trouble: str, reason: str = "") -> Entry:
        """Return it when it could not be scored."""
        return replace(self, state="failed", trouble=trouble, reason=reason)

    def again(self) -> Entry:
        """Return it when it is to be tried again; one that did not fail as it is."""
        if self.state != "failed":
            return self
        return replace(self, state="waiting", trouble="", reason="")

    def set_down(self) -> Entry:
        """Return it when its scoring was stopped on the way."""
        return replace(self, state="waiting") if self.state == "scoring" else self


def order_of_need(entries: Iterable[Entry], open_key: str = "") -> list[str]:
    """Keys of the scans that are still to be scored, in the order in which they are needed.

    First the one that is being looked at, then those begun, then those not read yet in the order
    of the list, then those that the reader has seen or is done with.
    """
    left = [e for e in entries if e.state in ("waiting", "scoring")]
    rank = {reading: at for at, reading in enumerate(get_args(Reading))}
    left.sort(key=lambda e: (e.key != open_key, rank[e.reading], not e.done))
    return [entry.key for entry in left]


def sort_value(entry: Entry, column: Column) -> Any:
    """Value to sort a column by; None where there is none, which goes last either way."""
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
    """Key of the next scan that nobody has read, in the order shown and round its end.

    Parameters
    ----------
    shown : sequence of Entry
        In the order in which the reader sees them.
    after : str
        Key of the one at hand; from the top where there is none.

    Returns
    -------
    str or None
        None where all are read. Scans that failed are passed over.
    """
    keys = [entry.key for entry in shown]
    start = keys.index(after) + 1 if after in keys else 0
    for entry in [*shown[start:], *shown[:start]]:
        if entry.state != "failed" and entry.reading == "unread" and entry.key != after:
            return entry.key
    return None


def toggled(reading: Reading) -> Reading:
    """Done, or where it was done already, seen: the same again takes it back."""
    return "seen" if reading == "done" else "done"


def overview(entries: Sequence[Entry]) -> str:
    """One line on how far machine and reader are."""
    states = [entry.state for entry in entries]
    readings = [entry.reading for entry in entries]
    parts = [f"{states.count('scored')} of {len(entries)} scored"]
    if states.count("failed"):
        parts.append(f"{states.count('failed')} failed")
    parts.append(f"{readings.count('done')} done")
    readable = [e for e in entries if e.state != "failed"]
    parts.append(f"{sum(e.reading == 'unread' for e in readable)} unread")
    return ", ".join(parts)
