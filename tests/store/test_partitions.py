"""Counts over many partitions: all of them, some at once."""

from typing import Any

import pytest

from monitor.liveness import EnvironmentHealth, Liveness
from monitor.pace import AT_ONCE
from monitor.store.counts import count_workers, environment_health
from tests.support.stores import beat, opened

WORKERS = 300


@pytest.mark.parametrize("partitions", [1, 4, 256])
async def test_counts_are_of_all_partitions_and_ask_at_most_32_at_once(store_url: str, partitions: int) -> None:
    asked: list[int] = []
    running = most = 0

    async with opened(store_url, partitions=partitions) as store:

        async def read(function: str, partition: int, *args: str | int) -> Any:
            nonlocal running, most
            asked.append(partition)
            running += 1
            most = max(most, running)
            answer = await store.connection.read(function, partition, *args)
            running -= 1
            return answer

        for number in range(WORKERS):
            one = beat(f"w{number}", environment="prod" if number % 3 else "stage")
            await store.beat(store.partition_of(one.key), [one])
        census = await count_workers(read, partitions, "acme")
        health = await environment_health(read, partitions, "acme", "stage", None)
    assert {name: counts[Liveness.ALIVE] for name, counts in census.environments.items()} == {"prod": 200, "stage": 100}
    assert health == EnvironmentHealth(expected=100, silent=0, down=0)
    assert sorted(asked) == sorted([*range(partitions)] * 2)
    assert most == min(partitions, AT_ONCE)
    assert AT_ONCE == 32
