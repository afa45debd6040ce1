"""Bytes of movies, gains and defects in, checked before anything is allocated; no torch."""
