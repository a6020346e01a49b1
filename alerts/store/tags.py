"""Where the alerts' data lies: the bases of its keys, each of one hash tag.

What is of one worker lies with its partition, so that the server's order of writes covers all of it. What workers share
has as many shards of its own.
"""

from __future__ import annotations

from zlib import crc32


def partition_base(partition: int) -> str:
    """The base of what belongs to the workers of a partition."""
    return f"{{ls:{partition}}}:"


def shared_base(name: str, partitions: int) -> str:
    """The base of what belongs to a group, an environment or a tenant, by its name."""
    return shard_base(crc32(name.encode()) % partitions)


def shard_base(shard: int) -> str:
    """The base of a shard of what workers share."""
    return f"{{ls.shared:{shard}}}:"
