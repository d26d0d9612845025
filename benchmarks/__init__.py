"""How fast Weir is, and how much memory it takes, alone and beside its peers: `make bench`."""
