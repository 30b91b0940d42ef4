"""Benchmarks: each is a command, `python -m vit_tutorial.benchmarks.NAME`, and has a record."""
