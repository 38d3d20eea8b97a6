"""Services read the registry for the screens and post what they found; they touch no widget."""
