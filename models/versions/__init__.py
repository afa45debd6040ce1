"""Versions on disk: the store, roles of movies, checkpoints, base weights."""
