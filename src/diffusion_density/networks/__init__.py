"""Networks, called as `network(x, s)`; they know nothing of schedules."""
