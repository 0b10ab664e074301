"""What a score means: how it compares with normal tissue, normal scans and normal patients."""
