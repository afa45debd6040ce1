"""Files of a processed movie: each complete under its final name, or absent."""
