"""The experiments of this study, one module each."""
