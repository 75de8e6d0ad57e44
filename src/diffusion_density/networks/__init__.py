"""Networks, called as `network(x, s)`. They know nothing about schedules."""
