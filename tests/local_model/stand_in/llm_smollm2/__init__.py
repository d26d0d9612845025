"""Stands in for the package of the weights, of which only the file is used."""
