"""Frames onto half the pixel size, and whether that helped."""
