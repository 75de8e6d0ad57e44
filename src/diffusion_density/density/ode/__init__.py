"""The log density of the probability-flow ODE."""
