"""Other people's servers as lanes: a fast one, and a plain one to fall back to."""
