"""Reports of a scan and of a folder of scans, as HTML and PDF."""
