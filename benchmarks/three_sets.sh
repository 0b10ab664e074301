#!/usr/bin/env bash
# Compares the default method with a memory bank on three data sets in the BMAD layout.
#
#   benchmarks/three_sets.sh DATA OUT
#
# DATA holds brain_flair, liver_ct and retina_oct. Fits three seeds of each method on every set, and on
# retina_oct once more without the grey of its background (benchmarks/oct_background.py), writes a report
# for each to OUT, and prints one table, OUT/table.md. After an interruption the same command resumes:
# models and finished reports are kept. Without a GPU it takes about two hours on two cores.
#
#   SEEDS=0            fewer seeds
#   IMAGES=12          that many images of each folder only, copied to OUT/data: to try it in minutes
#   PYTHON=.venv/bin/python
set -euo pipefail
if [ $# != 2 ]; then
    echo "usage: benchmarks/three_sets.sh DATA OUT" >&2
    exit 2
fi
data=$1 out=$2 here=$(dirname "$(realpath "$0")")
python=${PYTHON:-python}
for set in brain_flair liver_ct retina_oct; do
    if [ ! -d "$data/$set/train/good" ]; then
        echo "$data/$set/train/good is missing: DATA has to hold brain_flair, liver_ct and retina_oct" >&2
        exit 1
    fi
done
mkdir -p "$out"
asked="$(realpath "$data"), seeds ${SEEDS:-0,1,2}, ${IMAGES:-all} images of a folder"
if [ "$(cat "$out/asked.txt" 2> /dev/null || echo "$asked")" != "$asked" ]; then
    echo "$out has results of another run ($(cat "$out/asked.txt")): choose another folder" >&2
    exit 1
fi
echo "$asked" > "$out/asked.txt"

some() { # DATASET: evenly spaced images of each of its folders, with their labels
    local from=$data/$1 to=$out/data/$1 folder
    find "$from" -mindepth 2 -type d ! -name label | while read -r folder; do
        mkdir -p "$to/${folder#"$from"/}"
        find "$folder" -maxdepth 1 -type f | sort | awk -v n="$IMAGES" '{ a[NR] = $0 }
            END { for (i = 0; i < n && i < NR; i++) print a[1 + int(i * NR / (n < NR ? n : NR))] }' |
            while read -r image; do
                cp "$image" "$to/${folder#"$from"/}/"
                label=$folder/../label/$(basename "${image%.*}").png
                if [ -f "$label" ]; then
                    mkdir -p "$to/${folder#"$from"/}/../label"
                    cp "$label" "$to/${folder#"$from"/}/../label/"
                fi
            done
    done
}

compare() { # FOLDER MODALITY
    if [ ! -s "$out/$(basename "$1")/report.html" ]; then # written last
        "$python" -m napari_spatial_ar compare "$1" --out "$out/$(basename "$1")" --modality "$2" \
            --backbone dinov2_vits14_focus --seeds "${SEEDS:-0,1,2}" \
            --method spatial-ar-change --method memory-bank:coreset=0.02
    fi
}

if [ -n "${IMAGES:-}" ]; then
    for set in brain_flair liver_ct retina_oct; do some "$set"; done
    data=$out/data
fi
compare "$data/brain_flair" mri
compare "$data/liver_ct" ct
compare "$data/retina_oct" oct
"$python" "$here/oct_background.py" "$data/retina_oct" "$out/data/retina_oct_no_background" \
    --json "$out/grey.json"
compare "$out/data/retina_oct_no_background" oct

"$python" - "$out" > "$out/table.md" << 'EOF'
import json, sys
from pathlib import Path

def cell(one, name):
    value, ends = one["mean"].get(name), one["intervals"].get(name)
    if value is None:
        return ""
    return f"{value:.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")

names = ["pixel_aupr", "pixel_auroc", "pixel_aupro", "lesion_sensitivity", "image_auroc", "realised_fpr"]
print(f"| data set | method | smoothing | {' | '.join(names)} |\n|{' --- |' * (len(names) + 3)}")
for name in ("brain_flair", "liver_ct", "retina_oct", "retina_oct_no_background"):
    for one in json.loads((Path(sys.argv[1]) / name / "results.json").read_text())["methods"]:
        row = [name, one["name"], str(one["smoothing"]), *(cell(one, figure) for figure in names)]
        print(f"| {' | '.join(row)} |")
EOF
cat "$out/table.md"
