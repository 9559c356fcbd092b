"""Sources and a recipe become a dataset; a dataset becomes samples in a stated order. Knows Ray Core, not torch or MLflow."""
