"""The density of the probability-flow ODE."""
