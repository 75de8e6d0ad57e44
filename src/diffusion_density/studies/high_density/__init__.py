"""Karczewski, Heinonen and Garg 2025 and 2025b: log densities of samples (arXiv 2411.01293 and 2502.05807)."""
