"""Probabilities of images of integers: bits per dimension by dequantization and by the variational bound."""
