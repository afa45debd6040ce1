"""What a micrograph, or any program's half images, are worth."""
