"""Densities of integer images: bits per dimension by dequantization and by the variational bound."""
