"""Vision transformers that turn a slice into patch embeddings, and their weights."""
