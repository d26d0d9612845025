"""How a secret is shown where it must not be read."""


def mask(secret: str) -> str:
    """First and last four characters: `dev_***_123`; of short secrets nothing."""
    return f"{secret[:4]}***{secret[-4:]}" if len(secret) >= 11 else "***"
