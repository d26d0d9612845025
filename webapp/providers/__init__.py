"""Whom Weir asks: one file a provider, behind one base class."""
