"""The whole system on a simulated microscope, and the checks that it held."""
