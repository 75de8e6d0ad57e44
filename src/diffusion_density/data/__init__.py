"""Sources of data, their checksums and formats."""
