"""The load generator: ``python -m bench.load --help``.

Open loop: when each request is to be sent is decided ahead and does not depend on answers, and latency counts
from that time. So a server that stalls is charged for every request that would have been sent meanwhile, which
a generator that waits for answers leaves out ("coordinated omission", Gil Tene).
"""
