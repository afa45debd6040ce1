"""What is known of a movie apart from its pixels: EPU and SerialEM sidecars, settings, calibration."""
