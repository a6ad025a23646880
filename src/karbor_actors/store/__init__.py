"""Object stores, and the format of what a bank keeps in them."""

from karbor_actors.store.local import LocalStore
from karbor_actors.store.objects import MemoryStore, ObjectStore, open_store
from karbor_actors.store.remote import RemoteStore

__all__ = ["LocalStore", "MemoryStore", "ObjectStore", "RemoteStore", "open_store"]
