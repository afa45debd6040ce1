"""Commands: options in, text or JSON out."""
