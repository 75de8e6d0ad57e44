"""The path-integral bound: plain, with reduced variance, and with a target for its standard error."""
