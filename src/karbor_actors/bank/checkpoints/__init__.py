"""Checkpoints and their sections: rows, and what a caller holds of them."""
