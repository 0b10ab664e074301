"""What a scan's scores mean to a reader: findings, provenance, pictures, files. No Qt."""
