"""Classical variational Bayes: the models with known answers that the VAE grew from.

A file a model or an idea; docs/variational_bayes.md tells them in order. Like the rest of the
mathematics they need jax alone, take the dtype of what they are given, and are in nats.
"""
