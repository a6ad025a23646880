"""The journal of operations: what was intended, what completed, what is to be undone."""
