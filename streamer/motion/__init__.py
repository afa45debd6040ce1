"""How far each frame has to be moved, estimated and applied."""
