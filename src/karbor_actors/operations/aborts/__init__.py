"""Undoing what hooks did: ``on_abort``, and what could not be undone yet."""
