"""Masks secrets, so that they can be recognized but not used."""


def mask(secret: str) -> str:
    """The first and last four characters: `dev_***_123`. Short secrets become `***`."""
    return f"{secret[:4]}***{secret[-4:]}" if len(secret) >= 11 else "***"
