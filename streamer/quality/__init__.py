"""Quality of a micrograph, or of any program's half images."""
