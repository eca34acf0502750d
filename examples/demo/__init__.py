"""`make demo`: an agent repairs a bug through the guard, then does it again with an engine fault planted."""
