"""The detector's own marks: gain, defects, orientation, MTF."""
