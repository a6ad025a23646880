"""Protects SQLite databases while they are in use."""
