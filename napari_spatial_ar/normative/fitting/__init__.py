"""From a folder of normal scans to a model."""
