"""Manifests: what a checkpoint is, in the object store, and records made again from them."""
