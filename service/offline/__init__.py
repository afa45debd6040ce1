"""The daemon's work by hand, without a daemon."""
