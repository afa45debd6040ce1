"""Which movies there are, what became of each, and every event; the only SQL."""
