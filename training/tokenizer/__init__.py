"""The point tokenizer: a discrete autoencoder that gives each patch of a cloud one of V tokens."""
