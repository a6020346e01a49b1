"""Where the alerts' data lies: the bases of its keys, each of one hash tag. Pure.

What is of one worker lies with its partition, so that the server's order of writes covers all of it. What workers share
has as many shards of its own.
"""

from zlib import crc32

from alerts.groups.classify import WORKER_PREFIX


def bases_of(partitions: int) -> list[str]:
    """The bases of all partitions and shards."""
    return [base(number) for number in range(partitions) for base in (partition_base, shard_base)]


def partition_base(partition: int) -> str:
    """The base of what belongs to the workers of a partition."""
    return f"{{ls:{partition}}}:"


def shard_base(shard: int) -> str:
    """The base of a shard of what workers share."""
    return f"{{ls.shared:{shard}}}:"


def shared_base(name: str, partitions: int) -> str:
    """The base of what belongs to an environment or a tenant, by its name."""
    return shard_base(crc32(name.encode()) % partitions)


def base_of_group(key: str, partitions: int) -> str:
    """The base of a group: with its worker, or with its environment."""
    if key.startswith(WORKER_PREFIX):
        return partition_base(crc32(key[1:].encode()) % partitions)
    return shared_base(key[1:], partitions)
