"""Measures speed and memory of Weir, alone and compared with other gateways: `make bench`."""
