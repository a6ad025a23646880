"""Blocks: the content of streams, stored once, counted, checked and freed."""
