"""What this library costs, beside other libraries in one process. Run: ``make benchmark``."""
