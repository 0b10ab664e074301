"""Datasets in the BMAD layout, metrics and comparisons."""
