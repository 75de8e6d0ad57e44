"""Objectives and training: many small networks as one stack, or one network of images on several devices."""
