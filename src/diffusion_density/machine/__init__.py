"""What touches the computer: files, provenance, threads, GPUs and errors."""
