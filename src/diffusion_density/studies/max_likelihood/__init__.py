"""Zheng et al. 2023, "Improved Techniques for Maximum Likelihood Estimation for Diffusion ODEs" (arXiv 2305.03935)."""
