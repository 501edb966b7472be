"""The load generator, for other benchmarks.

    from bench.load import Workload, fill, native, run

    target = native(["127.0.0.1:7411"], r=2)
    workload = Workload(records=10_000, reads=50, updates=50)
    fill(target, workload)
    result = run(target, workload, connections=50, seconds=10)  # closed: as fast as answers come
    result = run(target, workload, connections=50, paces=[(10, 2000)])  # open: 2,000 requests/s for 10 s
    print(result.rate, result.all.ms(99.9), result.failed)

What a request costs the client is small and is measured: `Result.client_cores`. The loop is in ``bench/_ext``.
"""

from bench.load.errors import LoadError
from bench.load.histogram import Histogram
from bench.load.run import Result, Tick, fill, run
from bench.load.target import Target, etcd, native, nats, owners, resp
from bench.load.workload import YCSB, Workload

__all__ = [
    "YCSB",
    "Histogram",
    "LoadError",
    "Result",
    "Target",
    "Tick",
    "Workload",
    "etcd",
    "fill",
    "native",
    "nats",
    "owners",
    "resp",
    "run",
]
