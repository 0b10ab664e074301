"""The Training dock: from a folder of normal scans to a model."""
