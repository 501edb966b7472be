"""One process of the load generator: ``python -m bench.load.worker``, started by `bench.load.run`.

On stdin comes one line of JSON, the share of the load; on stdout it answers ``connected``, then on stdin comes the time
to start, then stdout has a line for every tick and one for the end.
"""

import base64
import json
import resource
import sys
import time
from typing import Any

from bench._ext.driver import Driver, clock_ns
from bench._ext.keys import Keys

SLICE_NS = 50_000_000  # Ctrl-C and ticks wait this long at most
CONNECT_NS = 3_000_000_000
SECOND_NS = 1_000_000_000


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def make(share: dict[str, Any]) -> Driver:
    """Return the driver for a share, all of its connections made."""
    target = share["target"]
    driver = Driver(
        target["protocol"],
        [(host, port) for host, port in target["nodes"]],
        need=target["need"],
        **{name: base64.b64decode(target[name]) for name in ("greeting", "get_tail", "put_tail", "owners")},
        connections=share["connections"],
        slots=share["slots"],
        number=share["number"],
        keys=Keys(**share["keys"]),
        mix=share["mix"],
        timeout_ns=share["timeout_ns"],
    )
    driver.connect(clock_ns() + CONNECT_NS)
    return driver


def run(driver: Driver, share: dict[str, Any], start_ns: int) -> None:
    """Give the share of the load from *start_ns* on; what is done in the warm-up is not counted."""
    begin_ns = start_ns + share["warmup_ns"]
    end_ns = begin_ns + share["length_ns"]
    time.sleep(max(0, start_ns - clock_ns()) / 1e9)
    driver.limit(share["limit"])
    if share["paces"]:
        driver.schedule(
            [(start_ns + until_ns, rate) for until_ns, rate in share["paces"]], start_ns + share["shift_ns"]
        )
    over = until(driver, begin_ns)
    driver.reset()
    cpu = cpu_s()
    tick_ns = share["tick_ns"]
    at_ns = begin_ns
    while not over and at_ns < end_ns:
        at_ns = min(at_ns + tick_ns, end_ns)
        over = until(driver, at_ns)
        say(at=(clock_ns() - begin_ns) / 1e9, done=driver.done, failed=driver.failed, counts=driver.take())
    cpu = cpu_s() - cpu
    in_time, ran_s = driver.done, (clock_ns() - begin_ns) / 1e9
    driver.drain(clock_ns() + share["timeout_ns"] + SECOND_NS)
    say(
        end=True,
        done=driver.done,
        failed=driver.failed,
        in_time=in_time,
        ran_s=ran_s,
        wrong=driver.wrong,
        versions=driver.version_counts,
        unsent=driver.unsent,
        lost_connections=driver.lost_connections,
        errors=driver.errors,
        cpu_s=cpu,
        counts=driver.take(),
    )


def until(driver: Driver, end_ns: int) -> bool:
    """Run until then; return whether all that was to be sent is answered."""
    over = False
    while not over and clock_ns() < end_ns:
        over = driver.run(min(end_ns, clock_ns() + SLICE_NS))
    return over


def main() -> None:
    share = json.loads(sys.stdin.readline())
    driver = make(share)
    say(connected=driver.connected)
    go = sys.stdin.readline()
    if go:  # else whoever started us is gone
        run(driver, share, int(go))


if __name__ == "__main__":
    main()
