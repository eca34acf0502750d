"""Client APIs: each wire module parses requests into `ChatRequest` and encodes events; nothing else knows formats."""
