"""How fast Weir is, and how much memory it takes: `make bench`."""
