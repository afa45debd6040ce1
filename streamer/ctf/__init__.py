"""Contrast transfer: the function itself, and other programs' defocus tables."""
