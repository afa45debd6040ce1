"""From a directory that is being written to, to complete movies."""
