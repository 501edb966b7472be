from bench._ext.wire cimport Codec

cdef Codec etcd_codec() noexcept
