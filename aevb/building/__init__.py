"""Makes the objects of a model from a config: entries, labels, the model itself."""
