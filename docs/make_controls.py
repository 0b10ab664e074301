"""Generates docs/reference/controls.md: all controls of the docks and dialogs with tooltips.

python docs/make_controls.py [--out FILE]

The texts come from napari_spatial_ar/gui/widgets/tooltips.py; Qt and a display are not needed.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from napari_spatial_ar.gui.widgets.tooltips import TOOLTIPS

# Location of controls, by the first part of their key.
PARTS = {
    "docks": "All docks",
    "scan": "Review dock: Scan",
    "model": "Review dock: Model",
    "score": "Review dock: Score",
    "deleted_scans": "Review dock: a deleted scan with manual work",
    "threshold": "Review dock: Threshold",
    "mask": "Review dock: Threshold, Histogram and mask settings, Advanced",
    "findings": "Review dock: Flagged regions",
    "results": "Review dock: Results over the scan",
    "explain": "Review dock: Explain the patch under the cursor",
    "export": "Review dock: Export",
    "worklist": "Worklist",
    "normals": "Training dock: Normal scans",
    "slices": "Training dock: Slices",
    "training": "Training dock: Model",
    "fit": "Training dock: Fit",
    "chooser": "Choose scans to open",
    "archive": "Open from archive",
    "saved": "Add archive",
    "send": "Send to an archive",
    "series": "Choose series to learn from",
    "outliers": "Training outliers",
    "models": "Models",
    "comparison": "Compare two models",
    "checkpoint": "Import a checkpoint of the paper's authors",
    "weights": "Get weights and Add weights",
    "keys": "Keyboard shortcuts",
}
HEAD = """# Every control

The tooltips of all controls. Words in *italics* are replaced by the actual value, such as the
model's unit. The options of each method are explained by their tooltips in the Training dock, and
in [method.md](../explanation/method.md). For research use, not for diagnosis.

`docs/make_controls.py` generates this page from `napari_spatial_ar/gui/widgets/tooltips.py`.
"""


def control(key: str) -> str:
    """Name of a control, from its key without the part of the dock."""
    name, *state = [part.replace("_", " ") for part in key.split(".")[1:]]
    if name == "columns":
        return f"Column {state[0]}"
    named = re.sub("dicom", "DICOM", name.capitalize(), flags=re.IGNORECASE)
    return f"{named} ({', '.join(state)})" if state else named


def cell(text: str) -> str:
    """Format a text as a cell of a Markdown table, with placeholders in italics."""
    text = text.replace("|", r"\|").replace("<", "&lt;")
    return re.sub(r"\{(\w+)\}", r"*\1*", text)


def page() -> str:
    """Return the page.

    Raises
    ------
    KeyError
        If a key's part has no title in `PARTS`.
    """
    by_part: dict[str, list[str]] = {part: [] for part in PARTS}
    for key in TOOLTIPS:
        by_part[key.split(".")[0]].append(key)
    lines = [HEAD]
    for part, keys in by_part.items():
        lines += [f"## {PARTS[part]}", "", "| control | what it does |", "| --- | --- |"]
        lines += [f"| {control(key)} | {cell(TOOLTIPS[key])} |" for key in keys]
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def main() -> None:
    """Parse arguments and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "reference" / "controls.md"
    )
    arguments = parser.parse_args()
    arguments.out.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
