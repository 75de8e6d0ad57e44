"""Image sets: their archives, checksums and formats."""
