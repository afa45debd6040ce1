"""Reads movies, gains and defects, checked before anything is allocated; no torch."""
