"""The RELION plug-in: CW-RED behind the external reconstruction of a refinement. A place for it; nothing is here yet."""
