"""The mathematics of diffusion models: schedules, predictions, models, mixtures and the reverse process."""
