"""The five operations: planned, run hook by hook by actors, aborted and reported."""
