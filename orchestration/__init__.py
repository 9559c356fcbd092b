"""An experiment file becomes a graph of stages, runs and reports; the command line. Nothing imports this package."""
