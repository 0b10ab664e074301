#!/usr/bin/env bash
# Compares the default method with a memory bank on three data sets in the BMAD layout.
#
#   benchmarks/three_sets.sh DATA OUT
#
# DATA holds brain_flair, liver_ct and retina_oct. Fits three seeds of each on every set, and writes
# a report for each to OUT. A comparison that was interrupted goes on where it stopped. Without
# a GPU it takes about an hour on two cores, most of it for embedding.
set -euo pipefail
data=$1 out=$2

compare() { # DATASET MODALITY
    napari-spatial-ar compare "$data/$1" --out "$out/$1" --modality "$2" \
        --backbone dinov2_vits14_focus --seeds "${SEEDS:-0,1,2}" \
        --method memory-bank:coreset=0.02 --method spatial-ar-change
}

compare brain_flair mri
compare liver_ct ct
compare retina_oct oct
