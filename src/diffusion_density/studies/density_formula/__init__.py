"""Li and Yan 2024, "A Score-Based Density Formula, with Applications in Diffusion Generative Models" (arXiv 2408.16765)."""
