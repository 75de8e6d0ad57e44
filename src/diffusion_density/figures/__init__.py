"""One module per study: tidy tables in, figures out; no computation."""
