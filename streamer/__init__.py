"""The data path: from a movie file to a micrograph and its numbers. Read ``pipeline.py`` first.

records, errors, units, settings   what is passed on, what can go wrong, conversions, what can be set
watch                              from a directory to movies that are ready
metadata                           sidecars, settings and headers combined
readers                            movie, gain and defect files; formats are recognised by their first bytes
detector                           gain, orientation, defects and hot pixels, MTF
fourier                            grids, crops, ring sums: the only module that knows the half-plane
motion, dose, sums                 shifts, exposure weights, frames onto the physical grid
super_resolution                   frames onto the 2x grid, and whether that helped
quality, restore                   FRC, SSNR, SNBR*; the Wiener estimate and its correction
picking                            particles: where they are and how far they stand out
writers                            MRC, STAR, PNG and the record, each complete or absent
pipeline                           ``process_movie``: a movie from start to finish
simulation, ctf                    movies with a known truth; contrast transfer

Axis order is (t, y, x); row 0 is the bottom row, as in MRC. Shifts move the frame onto the reference.
Pixel sizes are in Å/px, exposures in e⁻/Å², spatial frequencies in 1/Å unless called fftfreq (cycles/px).
"""
