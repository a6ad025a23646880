"""The LMDB files of a bank: opened once per process, written in groups, read in snapshots."""
