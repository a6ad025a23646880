"""Which operations and which of their ready hooks get in: locks, caps, windows, fairness."""
