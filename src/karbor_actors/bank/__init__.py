"""The bank: checkpoints, their sections, and the journal, in LMDB."""
