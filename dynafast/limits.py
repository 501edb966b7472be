"""Sizes and counts that both sides of a connection hold each other to, in bytes unless the name says otherwise."""

KEY_MAX = 4096
VALUE_MAX = 8 * 1024 * 1024
FRAME_MAX = 16 * 1024 * 1024  # the CBOR item, without the four bytes of length
PART_SIZE = 4 * 1024 * 1024  # a message too large for one frame travels in parts of this size
MESSAGE_MAX = 1024 * 1024 * 1024  # all parts under way on one connection
RECORD_MAX = 64 * 1024 * 1024  # live values of one key together, for client writes only
VERSIONS_MAX_COUNT = 128  # live versions of one key, for client writes only
REPLICAS_MAX_COUNT = 8  # N; seats of one partition are a bit set
TIMEOUT_MAX_MS = 60_000
WEIGHT_MAX = 10_000  # of a node, relative to the others
WIRE_VERSION = 1
