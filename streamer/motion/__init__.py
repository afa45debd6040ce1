"""Where each frame has to be moved."""
