"""What a response may still say so that it can be completed as demanded; for filtered decoding."""
