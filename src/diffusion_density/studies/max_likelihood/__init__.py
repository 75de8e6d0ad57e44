"""Paper D, "Improved Techniques for Maximum Likelihood Estimation for Diffusion ODEs" (arXiv 2305.03935)."""
