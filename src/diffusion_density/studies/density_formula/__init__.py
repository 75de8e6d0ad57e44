"""Study ``density_formula``: paper B, "A Score-Based Density Formula, with Applications in Diffusion Generative Models"."""
