"""How the embedded model is made: synthetic repair episodes, tokenizer, trainer, evaluation."""
