"""Measurements, each beside the raw operation that bounds it, in the same run: `make bench`, or `python -m bench NAME`.

Nothing here is a test: machines differ, and so do the times. The ratios are what is compared.
"""
