"""A microscope with a known truth: specimen, detector, drift, files and how they appear."""
