"""Writes the tables and figures of the documents from results files."""
