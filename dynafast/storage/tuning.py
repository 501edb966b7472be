"""How RocksDB is set up for a node: each setting that is not RocksDB's own default, with its reason.

Sizes aim at several nodes on one small machine: an idle node takes some 10 MB here, a busy one below 100 MB.
"""

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    WriteOptions,
)

from dynafast.storage.interface import Family

_MIB = 1024 * 1024
_CACHE_SIZE = 8 * _MIB  # blocks of all families; the page cache of the system holds the rest, compressed
_BLOB_SIZE_MIN = 4096


def database_options() -> Options:
    """Return the options of the database as a whole, and of its default family, which stays empty."""
    options = Options(raw_mode=True)
    options.create_if_missing(create_if_missing=True)
    options.create_missing_column_families(create_missing_cfs=True)
    # A log that ends in half a record is what a power cut leaves: that record was never synced, so it goes.
    # Anything else that cannot be read refuses the opening. RocksDB's own default, point_in_time, would start
    # without the records after the damage, synced and acknowledged ones among them, and say nothing.
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    # Families that are seldom written keep old logs alive; past this size they are flushed: a quick opening.
    options.set_max_total_wal_size(64 * _MIB)
    options.set_max_background_jobs(2)  # one flush and one compaction: nodes share two cores
    options.set_max_open_files(512)
    options.set_max_file_opening_threads(2)
    options.set_bytes_per_sync(1 * _MIB)  # tables reach the disk as they grow: no burst delays a log's fsync
    options.set_avoid_unnecessary_blocking_io(True)  # files are deleted in the background, not by a reader
    options.set_allow_concurrent_memtable_write(False)  # one thread writes: the plain insert is faster
    options.set_keep_log_file_num(3)  # RocksDB's own text logs
    options.set_max_log_file_size(4 * _MIB)
    options.set_stats_dump_period_sec(0)  # nobody reads them
    options.set_stats_persist_period_sec(0)
    return options


def family_options() -> dict[str, Options]:
    """Return the options of every family; they share one block cache."""
    table = BlockBasedOptions()
    table.set_block_cache(Cache(_CACHE_SIZE))
    # Index and filter blocks count against the cache: otherwise they grow with the data, outside any bound.
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    # 10 bits per key, 1 % false positives: a put of a new key starts with a get that finds nothing.
    table.set_bloom_filter(10, block_based=False)
    return {family.value: _one_family(family, table) for family in Family}


def _one_family(family: Family, table: BlockBasedOptions) -> Options:
    options = Options(raw_mode=True)
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.lz4())
    if family is not Family.OBJECTS:
        options.set_write_buffer_size(4 * _MIB)
        return options
    options.set_write_buffer_size(16 * _MIB)
    options.set_max_write_buffer_number(4)  # three wait for the disk before a put is asked to pause
    # Values of some KB go to files of their own once, and compaction moves only keys and pointers. At 2000 puts of
    # 20 KB a second the slowest in a thousand took 4 ms instead of 24 ms (2 cores, 0.7 GB of objects).
    options.set_enable_blob_files(True)
    options.set_min_blob_size(_BLOB_SIZE_MIN)
    options.set_blob_compression_type(DBCompressionType.lz4())
    options.set_blob_file_size(64 * _MIB)
    options.set_enable_blob_gc(True)
    options.set_blob_gc_force_threshold(0.5)  # rewrite the oldest blob files once half of them is overwritten
    return options


def write_options() -> WriteOptions:
    """Return the options of every write: no sync, and an error where RocksDB would block the thread."""
    options = WriteOptions()
    options.no_slowdown = True  # a stalled write would hold the interpreter's lock, and so stop the whole node
    return options
