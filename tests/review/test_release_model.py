"""The generated sections of a released model's card."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "release_model.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def measured(aupr: float) -> dict[str, Any]:
    """What `evaluate --json` writes, of two lesions of which one is found."""
    return {
        "images": 5,
        "abnormal_images": 2,
        "patients": 4,
        "base_rate": 0.024,
        "pixel_auroc": 0.9,
        "pixel_aupr": aupr,
        "pixel_aupro": None,
        "image_auroc": 0.8,
        "intervals": {"pixel_aupr": [0.1, 0.7], "lesion_sensitivity": [0.0, 1.0]},
        "realised_fpr": 0.013,
        "dice_at_fpr": 0.4,
        "lesions": 2,
        "lesion_sensitivity": 0.25,
        "lesion_sensitivity_at": {"0.125": 0.0, "1": 0.5},
        "lesion_sizes": [{"smallest": 3, "largest": 9, "lesions": 2, "sensitivity": 0.5}],
    }


def test_figures_of_the_whole_stand_above_those_of_its_parts(script: dict[str, Any]) -> None:
    text = script["figures"]({"": measured(0.5), "nll": measured(0.3)})
    rows = [line for line in text.splitlines() if line.startswith("| this") or "alone" in line]
    assert rows[0] == "| this model | 0.900 | 0.500 [0.10, 0.70] |  | 0.800 | 1.3% | 0.400 |"
    assert rows[1].startswith("| its NLL alone | 0.900 | 0.300")
    assert "| this model | 0.00 | 0.50 | 0.250 [0.00, 1.00] |" in text
    assert "2.4% of pixels" in text
    assert "0.50 of the 2 of 3 to 9 pixels" in text


def test_only_the_generated_section_of_a_card_is_replaced(script: dict[str, Any]) -> None:
    card = "before\n<!-- figures -->\nold\n<!-- end of figures -->\nafter\n"
    found = script["replaced"](card, "figures", "new \\1")
    assert found == "before\n<!-- figures -->\nnew \\1\n<!-- end of figures -->\nafter\n"
    with pytest.raises(SystemExit, match="lacks the lines"):
        script["replaced"](card, "calibration", "new")
