"""Files, provenance, threads, GPUs and errors: everything that depends on the computer."""
