#!/usr/bin/env bash
# Fits every method on a data set in the BMAD layout and compares them under one rule.
#
#   benchmarks/all_methods.sh DATASET MODALITY OUT [EPOCHS]
#
# EPOCHS are those of Spatial AR, in batches of four slices: 7 on brain_flair, 15 on retina_oct and
# 8 on liver_ct are some 830 steps, minutes each on a CPU and fewer than it needs. Dinomaly gets 100
# of its 10,000 steps, of 4 slices instead of 16: what it can do takes a GPU. Models that are there
# already are kept.
set -euo pipefail
data=$1 modality=$2 out=$3 epochs=${4:-40}
backbone=dinov2_vits14_focus

models=()
learn() { # NAME METHOD SEEDS [OPTION...]
    local name=$1 method=$2 seeds=$3 seed
    shift 3
    for seed in $seeds; do
        models+=(--model "$out/$name-seed$seed")
        [ -f "$out/$name-seed$seed/model.safetensors" ] || napari-spatial-ar fit "$data" \
            --out "$out/$name-seed$seed" --modality "$modality" --backbone "$backbone" \
            --method "$method" --seed "$seed" "$@"
    done
}

learn change-novelty change-novelty "0 1 2"
learn synthetic-change synthetic-change "0 1 2"
learn surroundings-bank surroundings-bank 0
learn memory-bank memory-bank 0
learn patch-gaussian patch-gaussian 0
learn patch-gaussian-per-position patch-gaussian:position=patch 0
learn dpmm dpmm 0
learn himatch-ad himatch-ad 0
learn himatch-ad-one-block himatch-ad 0 --layers 7
learn memory-bank-coreset memory-bank:coreset=0.02 0
learn dinomaly-100 dinomaly:iterations=100,batch_size=4 0
learn utrad utrad 0
learn spatial-ar-dilated spatial-ar "${AR_SEEDS:-0 1 2}" --epochs "$epochs" --batch-size 4
learn spatial-ar-standard spatial-ar:dilation=1 0 --epochs "$epochs" --batch-size 4
learn spatial-ar-bidirectional spatial-ar:context=bidirectional 0 --epochs "$epochs" --batch-size 4
learn spatial-ar-both spatial-ar:raster=both 0 --epochs "$epochs" --batch-size 4
backbone=pixels14 learn spatial-ar-pixels spatial-ar 0 --epochs "$epochs" --batch-size 4
napari-spatial-ar compare "$data" --out "$out/report" "${models[@]}"
