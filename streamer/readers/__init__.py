"""Movie, gain and sidecar files. ``movie.read_header`` and ``movie.read_counts`` are the entrance."""
