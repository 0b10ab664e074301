"""The tables of docs/explanation/method.md from what `ar_ablation.py` wrote, as Markdown.

python benchmarks/ar_ablation_table.py [benchmarks/results/ar_ablation_gpu.json]

A table for each length of training; figures are means over the seeds there are, those of |r|^2 with
the smallest and the largest where there are several, and how many times the dilated network's the
mean is.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

RESULTS = Path(__file__).parent / "results" / "ar_ablation_gpu.json"
MEASURES = ("identity", "covariance", "bank")
WORDS = {"identity": "\\|r\\|^2", "covariance": "by covariance", "bank": "with the bank"}
Runs = dict[str, dict[str, Any]]


def values(rows: list[dict[str, Any]], variant: str, measure: str, figure: str) -> list[float]:
    """One figure of a variant, a number for each seed."""
    wanted = {"variant": variant, "measure": measure}
    return [row[figure] for row in rows if wanted.items() <= row.items()]


def cell(found: list[float], dilated: list[float], digits: int) -> str:
    """Mean, range over the seeds, and times the dilated network's."""
    several = f" ({min(found):.{digits}f}-{max(found):.{digits}f})" if len(found) > 1 else ""
    times = mean(found) / mean(dilated)
    return f"{mean(found):.{digits}f}{several}, x{times:.2f}"


def table(sets: Runs) -> str:
    """One length of training; ``sets`` by the name of the data set."""
    variants = list(dict.fromkeys(row["variant"] for s in sets.values() for row in s["rows"]))
    # As small as they are, those of liver_ct need a digit more.
    digits = {name: 4 if name.startswith("liver") else 3 for name in sets}
    over, heads = [""], ["network"]
    for name in sets:
        own = ["seeds", *(WORDS[measure] for measure in MEASURES), "image AUROC"]
        over += [name, *[""] * (len(own) - 1)]
        heads += own
    lines = [over, ["---"] * len(heads), heads]
    for variant in variants:
        line = [variant]
        for name, run in sets.items():
            rows, places = run["rows"], digits[name]
            known = {m: values(rows, variant, m, "test_aupr") for m in MEASURES}
            line.append(str(len(known["identity"])))
            line.append(
                cell(known["identity"], values(rows, "dilated", "identity", "test_aupr"), places)
            )
            line += [f"{mean(known[measure]):.{places}f}" for measure in MEASURES[1:]]
            line.append(f"{mean(values(rows, variant, 'identity', 'test_image_auroc')):.2f}")
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print a table for each length of training."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    by_length: dict[str, Runs] = {}
    for key, run in json.loads(path.read_text()).items():
        name, _, length = key.partition(", ")
        by_length.setdefault(length, {})[name] = run
    for length, sets in by_length.items():
        print(f"{length} ({next(iter(sets.values()))['device']})\n\n{table(sets)}\n")  # noqa: T201


if __name__ == "__main__":
    main()
