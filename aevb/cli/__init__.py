"""The commands that a person types, from their flags to their exit status."""
