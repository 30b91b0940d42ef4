"""Weights on disk and from others: our files, their layouts, and how they are fetched."""
