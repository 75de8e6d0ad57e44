"""Paper C, "Diffusion Models as Cartoonists" (arXiv 2411.01293), and its follow-up "Density Guidance" (2502.05807)."""
