#!/usr/bin/env bash
# Fits a normative model of retinal OCT, by the default method, on a folder of normal B-scans.
#
#   scripts/retina_oct.sh FOLDER OUT [OPTION of fit]...
#
# FOLDER holds images or DICOM of normal B-scans, or a data set in the BMAD layout (train/good is used,
# and valid/good for calibration). The patient is what precedes the first _ in the name of a file;
# --patient-pattern overrides it. No such model is released, because the licence of the images at hand
# is not known: models/retina-oct/README.md has its card and figures. It takes some minutes on two cores;
# after an interruption, the same command resumes.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: scripts/retina_oct.sh FOLDER OUT [OPTION of fit]..." >&2
    exit 2
fi
folder=$1 out=$2
shift 2
exec "${PYTHON:-python}" -m napari_spatial_ar fit "$folder" --out "$out" --modality oct \
    --backbone dinov2_vits14_focus "$@"
