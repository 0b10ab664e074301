"""Data sets in the BMAD layout, metrics and comparisons."""
