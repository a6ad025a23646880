"""Whole operations on one thread, in virtual time, with faults and crashes by a seed."""
