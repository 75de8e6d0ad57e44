"""The mathematics: schedules, predictions, models, mixtures and the reverse process."""
