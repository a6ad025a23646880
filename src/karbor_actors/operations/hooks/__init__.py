"""One hook: its actor, its body's attempts, where they run, and what they are given."""
