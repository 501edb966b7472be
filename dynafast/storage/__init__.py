"""Where records live: one interface, on RocksDB or in memory."""
