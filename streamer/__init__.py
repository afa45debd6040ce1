"""The data path: from a movie file to a micrograph and its numbers. Read ``pipeline.py`` first.

records, errors, units, settings   what travels, what can go wrong, conversions, what can be set
watch                              directory to ready movies
readers                            movie, gain and sidecar files; one entrance by magic bytes
detector                           gain, defects and hot pixels, frame by frame
fourier                            grids, crops, ring sums: the only place that knows the half-plane
align, dose, fuse                  shifts, exposure weights, frames onto the physical or the 2x grid
quality, restore                   FRC, SSNR, SNBR*; the Wiener estimate and its correction
pick                               particles by a Laplacian of Gaussian
writers                            MRC, STAR, PNG and the record, each whole or absent
pipeline                           ``process_movie``: the whole way of a movie
simulate                           movies with a known truth

Axis order is (t, y, x); row 0 is the bottom row, as in MRC. Shifts move the frame onto the reference.
Pixel sizes are in Å/px, exposures in e⁻/Å², spatial frequencies in 1/Å unless called fftfreq (cycles/px).
"""
