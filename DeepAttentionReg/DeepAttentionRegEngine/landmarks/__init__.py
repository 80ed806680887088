"""Points and where they belong: which to believe, and fields through them. Without torch."""
