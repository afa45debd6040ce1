"""From a directory that is being written to, to movies that are whole."""
