"""Directories for karbor_actors: trees of files, kept with all that a file system knows of them."""

from karbor_filesystem.plugin import DirectoryProtectable, DirectoryProtection

__all__ = ["DirectoryProtectable", "DirectoryProtection"]
