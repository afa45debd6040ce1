"""MRC, STAR, PNG and the record. Every file appears whole or not at all (``atomic.py``)."""
