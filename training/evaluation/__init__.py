"""Frozen features become figures: one file a protocol, `evaluate` runs the chosen ones for one encoder."""
