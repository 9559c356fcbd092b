"""Batches become an encoder; encoder and dataset become figures. Knows torch and the reader, not Ray or MLflow."""
