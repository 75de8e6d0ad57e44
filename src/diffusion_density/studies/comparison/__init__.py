"""The study `comparison`: which estimator to use, for what, at what cost."""
