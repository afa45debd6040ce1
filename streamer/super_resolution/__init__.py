"""Frames onto the grid of half the pixel size, and whether that helped."""
