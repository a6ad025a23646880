"""Directories for karbor_actors: trees of files, kept with all that a file system knows of them.

Kept are contents (holes as holes), modes, owners, times in nanoseconds, extended attributes
and with them ACLs and capabilities, symbolic and hard links, fifos and devices. Not kept are
sockets, inode flags (``chattr``), birth times, and which files share extents.
"""

from karbor_filesystem.plugin import DirectoryProtectable, DirectoryProtection

__all__ = ["DirectoryProtectable", "DirectoryProtection"]
