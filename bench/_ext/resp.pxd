from bench._ext.wire cimport Codec

cdef Codec resp_codec() noexcept
