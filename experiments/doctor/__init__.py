"""Small runs with a known fault, and healthy ones, on which the diagnosis of runs is measured."""
