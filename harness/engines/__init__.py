"""Engines answer requests, each in a worker process, never in the process of the CLI."""
