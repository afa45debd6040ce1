"""A microscope whose truth is known: specimen, detector, drift, files and how they appear."""
