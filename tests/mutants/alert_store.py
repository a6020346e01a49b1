"""Wrong changes to the alerts' Lua: groups, incidents, silences, mass failures, reading, and the Python at its side."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = (
    Mutant(
        wrong="each router of a daemon reads the whole environment by itself",
        file="alerts/store/mass_failures.py",
        old="if known.health is None or now_s >= known.until_s:",
        new="if now_s >= 0:",
        tests=("tests/alerts/routing/test_mass_failure.py",),
    ),
    Mutant(
        wrong="a notification leaves though the store's file was not written in time",
        file="monitor/store/connection.py",
        old="if waited[0] >= 1 else",
        new="if waited[0] >= 0 else",
        tests=("tests/core/test_durability.py", "tests/alerts/store/test_groups.py"),
    ),
    Mutant(
        wrong="one replica confirms a notification for which two are asked",
        file="monitor/store/connection.py",
        old="if waited >= durability.replicas else",
        new="if waited >= 1 else",
        tests=("tests/core/test_durability.py", "tests/alerts/store/test_groups.py"),
    ),
    Mutant(
        wrong="in a store that several installations share, a removed receiver is never forgotten",
        file="monitor/store/library_client.py",
        old='return base.replace("{", "{" + self._prefix, 1)',
        new='return base if "receivers" in base else base.replace("{", "{" + self._prefix, 1)',
        tests=("tests/alerts/store/test_groups.py::test_receivers_of_earlier_runs_are_known",),
    ),
    Mutant(
        wrong="forgetting a worker's old incident orphans its newer open one",
        file="alerts/store/incidents.lua",
        old="if redis.call('HGET', base .. 'incident_of_worker', known[I_WORKER]) == id then",
        new="if redis.call('HGET', base .. 'incident_of_worker', known[I_WORKER]) then",
        tests=("tests/alerts/store/test_incidents.py",),
    ),
    Mutant(
        wrong="an environment's incident that opened again is forgotten like one that is over",
        file="alerts/store/incidents.lua",
        old="    redis.call('ZREM', base .. 'incidents_closed', id)\n  else",
        new="  else",
        tests=("tests/alerts/store/test_incidents.py",),
    ),
    Mutant(
        wrong="an environment's incident says that it was over when its first member was",
        file="alerts/store/incidents.lua",
        old="if not open and member[3] > (counts[M_CLOSED] or -1) then",
        new="if not open and not counts[M_CLOSED] then",
        tests=("tests/alerts/store/test_incidents.py",),
    ),
    Mutant(
        wrong="a tenant may have one silence more than the most",
        file="alerts/store/silences.lua",
        old="if redis.call('ZCARD', base .. 'silences_active:' .. tenant) >= tonumber(args[5]) then",
        new="if redis.call('ZCARD', base .. 'silences_active:' .. tenant) > tonumber(args[5]) then",
        tests=("tests/alerts/store/test_silences.py",),
    ),
    Mutant(
        wrong="another daemon goes on with a silence that was ended early",
        file="alerts/store/silences.lua",
        old="  redis.call('HSET', base .. 'silences_versions', tenant, 'end ' .. id)\n",
        new="",
        tests=("tests/alerts/store/test_silences.py",),
    ),
    Mutant(
        wrong="a group that an attempt holds is woken, so that a second attempt is made beside it",
        file="alerts/store/groups.lua",
        old="if known and (known[TOKEN] == 0 or known[UNTIL] <= now) then",
        new="if known then",
        tests=("tests/alerts/store/test_groups.py",),
    ),
    Mutant(
        wrong="a tenant with much that is due is first in every claim",
        file="alerts/store/groups.lua",
        old="delay_turn(base, tenant, now + 0.5)",
        new="delay_turn(base, tenant, 0)",
        tests=("tests/alerts/store/test_groups.py",),
    ),
    Mutant(
        wrong="a daemon whose lease was taken over writes its outcome all the same",
        file="alerts/store/groups.lua",
        old="local fits = version == change[C_VERSION] and (change[C_TOKEN] == 0 or change[C_TOKEN] == token)",
        new="local fits = version == change[C_VERSION]",
        tests=("tests/alerts/store/test_groups.py",),
    ),
    Mutant(
        wrong="a dead letter that was dropped for want of room stays a reason of health",
        file="alerts/store/groups.lua",
        old="  in_parts('ZREM', base .. 'dead_open', old)\n",
        new="",
        tests=(
            "tests/alerts/store/test_bounds.py::test_p26_the_oldest_dead_letters_go_with_their_bodies_when_there_are_too_many",
        ),
    ),
    Mutant(
        wrong="what is tried again and again lags since its last attempt only",
        file="alerts/store/groups.lua",
        old="redis.call('ZADD', base .. place, 'NX', int(now), nid)",
        new="redis.call('ZADD', base .. place, int(now), nid)",
        tests=("tests/alerts/store/test_groups.py",),
    ),
    Mutant(
        wrong="what a daemon still queues for a receiver that another removed expires with the rest",
        file="alerts/store/groups.lua",
        old="if redis.call('HDEL', base .. 'state', 'retired') == 1 then",
        new="if redis.call('HDEL', base .. 'state', 'retired') == 2 then",
        tests=(
            "tests/alerts/store/test_bounds.py::test_p26_what_is_kept_of_a_removed_receiver_expires_and_is_kept_again_when_it_is_back",
        ),
    ),
    Mutant(
        wrong="a group lists the members that fell silent last instead of first",
        file="alerts/store/reading.lua",
        old="redis.call('ZRANGE', base .. 'firing:' .. key, 0, math.min(firing, PAGE) - 1)",
        new="redis.call('ZRANGE', base .. 'firing:' .. key, 0, math.min(firing, PAGE) - 1, 'REV')",
        tests=("tests/alerts/store/test_groups.py",),
    ),
    Mutant(
        wrong="of finished notifications as many are kept at most as should be kept at least",
        file="alerts/store/retention.py",
        old="NOTES_KEPT, self.most, DEAD_LETTERS)",
        new="self.most, NOTES_KEPT, DEAD_LETTERS)",
        tests=(
            "tests/alerts/store/test_bounds.py::test_p26_what_is_over_is_forgotten_by_age_but_the_newest_never",
            "tests/alerts/store/test_bounds.py::test_p26_what_is_over_and_young_is_bounded_by_number",
        ),
    ),
    Mutant(
        wrong="after the second collision of writes there is no pause before the next try",
        file="alerts/loops.py",
        old="further = TRIES - self.left - 2",
        new="further = TRIES - self.left - 3",
        tests=("tests/alerts/store/test_compare_and_set.py",),
    ),
    Mutant(
        wrong="a change to a group that another process has changed meanwhile is lost",
        file="alerts/store/group_store.py",
        old="again += [want for (want, _), written in zip(changes, done, strict=True) if not written]",
        new="again += [want for (want, _), written in zip(changes, done, strict=True) if written is None]",
        tests=("tests/alerts/store/test_compare_and_set.py",),
    ),
    Mutant(
        wrong="a list of incidents skips those that one partition has not looked at yet",
        file="alerts/store/incidents.py",
        old='place = max((answer[0].decode() for answer in answers), default="")',
        new='place = min((answer[0].decode() for answer in answers), default="")',
        tests=("tests/alerts/store/test_incidents.py",),
    ),
    Mutant(
        wrong="an environment's incident has an end while members of it are open",
        file="alerts/store/incidents.py",
        old="closed_ms=closed_ms if over else None,",
        new="closed_ms=closed_ms or None,",
        tests=("tests/alerts/store/test_incidents.py",),
    ),
    Mutant(
        wrong="what is counted of an environment is forgotten though deaths go on there",
        file="alerts/store/routing.lua",
        old="redis.call('ZADD', base .. 'failures_written', int(now)",
        new="redis.call('ZADD', base .. 'failures_written', 'NX', int(now)",
        tests=(
            "tests/alerts/routing/test_mass_failure.py::test_p16_deaths_that_go_on_for_longer_than_a_day_are_not_forgotten_meanwhile",
            "tests/alerts/store/test_bounds.py::test_p26_counts_of_environments_in_which_nothing_happens_any_more_are_forgotten",
        ),
    ),
    Mutant(
        wrong="routers that declare a mass failure at once give it two incidents",
        file="alerts/store/mass_failures.lua",
        old="local id = lasts and declared[1] or args[4]",
        new="local id = args[4]",
        tests=("tests/alerts/routing/test_mass_failure.py",),
    ),
    Mutant(
        wrong="a router reads the deaths of other partitions before it notes its own",
        file="alerts/store/mass_failures.py",
        old='joined = (name, partition, _text(window) or "", KEPT_MS)',
        new='joined = (name, partition, "", KEPT_MS)',
        tests=("tests/alerts/routing/test_mass_failure.py",),
    ),
    Mutant(
        wrong="a router that has lost its lease writes and acknowledges its batch",
        file="alerts/store/routing.lua",
        old="if token and token ~= args[1] then",
        new="if token and token == '' then",
        tests=("tests/alerts/store/test_routing.py",),
    ),
    Mutant(
        wrong="a batch is acknowledged though one of its groups was not written",
        file="alerts/store/routing.lua",
        old="if not may_write(to, change, group(to, change[C_GROUP])) then",
        new="if change[C_GROUP] == '' then",
        tests=("tests/alerts/store/test_routing.py",),
    ),
)
