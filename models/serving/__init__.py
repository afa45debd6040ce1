"""Loaded versions that propose corrections for a micrograph."""
