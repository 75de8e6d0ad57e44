"""The path integral: plain, with reduced variance, and adaptive."""
