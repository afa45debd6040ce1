"""Particles in one micrograph: where they are, how sure that is, and how large they are."""
