"""One package or module per paper: configuration and artifacts in, tidy tables out."""
