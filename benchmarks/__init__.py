"""The cost of this library, compared with other libraries in one process. Run: ``make benchmark``."""
