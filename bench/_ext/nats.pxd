from bench._ext.wire cimport Codec

cdef Codec nats_codec() noexcept
