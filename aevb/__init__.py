"""Auto-Encoding Variational Bayes (Kingma & Welling, arXiv 1312.6114) in JAX.

Importing the package imports nothing else: take what you need, for example
``from aevb import losses``, which depends on jax alone.
"""
