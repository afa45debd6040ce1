"""What finished movies teach: which specimen is in the microscope, which version serves it, who learns from what."""
