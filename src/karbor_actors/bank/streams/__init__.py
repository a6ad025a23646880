"""Streams: bulk data of a resource, written and read block by block."""
