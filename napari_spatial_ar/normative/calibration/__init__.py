"""What a score means: its share among normal tissue, normal scans and normal patients."""
