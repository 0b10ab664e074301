"""What a scan's scores mean to a reader: findings, provenance, images, files. No Qt."""
