from bench._ext.wire cimport Codec

cdef Codec native_codec() noexcept
