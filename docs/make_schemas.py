"""Makes docs/reference/schema: a JSON Schema for each kind of JSON that the program writes.

python docs/make_schemas.py [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from napari_spatial_ar.json_schemas import DOCUMENTS, json_schema

FOLDER = Path(__file__).parent / "reference" / "schema"


def pages() -> dict[str, str]:
    """Name and text of each file."""
    return {
        f"{name}.v{document.VERSION}.json": json.dumps(json_schema(document), indent=2) + "\n"
        for name, document in DOCUMENTS.items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER)
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
