"""Movies to learn from, and the noise2noise loop."""
