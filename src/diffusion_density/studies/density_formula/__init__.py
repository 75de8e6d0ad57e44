"""Li and Yan 2024, "A Score-Based Density Formula …" (arXiv 2408.16765)."""
