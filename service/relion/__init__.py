"""The RELION plug-in: CW-RED behind the external reconstruction of a refinement. Reserved: nothing is here yet."""
