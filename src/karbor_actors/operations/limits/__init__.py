"""Time limits: what is watched, and what becomes of what takes too long."""
