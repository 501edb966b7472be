"""What a store knows about itself, kept in its own META family: format version, boot counter, clean marker.

Both stores begin and end with the same two steps, written in terms of the `Store` interface alone.
"""

from dynafast.errors import StoreFormatError
from dynafast.storage.interface import Batch, Family, Store

FORMAT = 2  # of keys, seals and column families; META and its format entry stay readable in every later one

FORMAT_KEY = b"store.format"
BOOT_KEY = b"store.boot"
CLEAN_KEY = b"store.clean"


def begin(store: Store) -> tuple[int, bool]:
    """Check the format, count this opening, remove the clean marker; return (boot, was_clean) once durable.

    Raises:
        StoreFormatError: another version wrote the store, or another program; it was not changed.
        StoreError: it cannot be read or written.
    """
    found = store.read(Family.META, FORMAT_KEY)
    if found is None:
        if any(store.scan(family, b"", None, limit=1) for family in Family):
            raise StoreFormatError("data without a format version: this is no dynafast store; choose another folder")
        boot, was_clean = 1, True
    elif found != b"%d" % FORMAT:
        raise StoreFormatError(
            f"the store has format version {found.decode('ascii', 'replace')}, this program reads and writes "
            f"version {FORMAT}: use the dynafast that wrote it, or let the node join again with an empty folder"
        )
    else:
        last = store.read(Family.META, BOOT_KEY)
        if last is None:
            raise StoreFormatError("the store has no boot counter: let the node join again with an empty folder")
        boot, was_clean = int(last) + 1, store.read(Family.META, CLEAN_KEY) is not None
    batch = Batch()
    batch.put(Family.META, FORMAT_KEY, b"%d" % FORMAT)
    batch.put(Family.META, BOOT_KEY, b"%d" % boot)
    batch.delete(Family.META, CLEAN_KEY)
    store.write(batch)
    store.sync()
    return boot, was_clean


def finish(store: Store) -> None:
    """Leave the clean marker; it is durable only together with everything written before it."""
    store.sync()  # first: a marker that outlives a lost write would be a lie
    batch = Batch()
    batch.put(Family.META, CLEAN_KEY, b"1")
    store.write(batch)
    store.sync()
