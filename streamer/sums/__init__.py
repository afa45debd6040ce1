"""From frames to the sum, its halves and the group sums that networks learn from."""
