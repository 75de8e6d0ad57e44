"""The study of our own: every estimator beside the others, on targets whose log density is known."""
