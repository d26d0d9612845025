"""Speed and memory of Weir, measured on the real server: `make bench`."""
