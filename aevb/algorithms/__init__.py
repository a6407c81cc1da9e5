"""Training algorithms: each file's `make` returns an `Algorithm`, a pair of pure functions."""
