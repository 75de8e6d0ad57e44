"""Premkumar 2024, "Diffusion Density Estimators" (arXiv 2410.06986): path integrals against the flow."""
