"""Files of a processed movie: each whole under its final name, or not there."""
