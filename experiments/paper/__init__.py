"""The study of the paper: trains its models, takes the measurements and draws the figures."""
