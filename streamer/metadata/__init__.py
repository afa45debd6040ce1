"""Everything known about a movie apart from its pixels: EPU and SerialEM sidecars, settings, calibration."""
