"""Objectives, training times and the training loop."""
