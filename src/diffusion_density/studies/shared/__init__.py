"""What several studies use: tables, intervals, stacks of networks, and the look of the figures."""
