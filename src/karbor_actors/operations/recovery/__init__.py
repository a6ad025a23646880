"""What an earlier process left, and how an operation is left to a later one.

The decisions are pure: recovery, suspension. What carries them out: recovering, suspending.
"""
