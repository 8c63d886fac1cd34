"""The engine of the cache: what workers ask for becomes a transaction, then the index, then answers."""

from objectcache.store.asking import Answer, Asked, Message, Stretch, Unverified
from objectcache.store.evicting import Limits
from objectcache.store.kept import Disk
from objectcache.store.store import Store
from objectcache.store.view import View

__all__ = ["Answer", "Asked", "Disk", "Limits", "Message", "Store", "Stretch", "Unverified", "View"]
