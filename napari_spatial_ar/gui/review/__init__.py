"""The Review dock: from a scan to a mask and findings."""
