"""The claims of the papers as data: definitions, measurements, verdicts, a page, and the comparison of two runs."""
