"""Wrong changes to alerts that are decided: groups, mass, single, flapping, silences, routing."""

from typing import Final

from tests.mutants.mutant import Mutant

_GROUP: Final = (
    Mutant(
        wrong="a group of more members than are looked at is silenced when those that are looked at are",
        file="alerts/groups/group_rules.py",
        old="    if group.firing > len(first):\n",
        new="    if group.firing > len(first) and not first:\n",
        tests=("tests/core/test_group_rules.py",),
    ),
    Mutant(
        wrong="a group that was notified of sends its news after the group wait, not after the group interval",
        file="alerts/groups/group_rules.py",
        old="return group.flushed_ms + group.timing.interval_ms if",
        new="return group.flushed_ms + group.timing.wait_ms if",
        tests=("tests/core/test_group_rules.py",),
    ),
    Mutant(
        wrong="members that are back are no news of a group until another member goes down",
        file="alerts/groups/group_rules.py",
        old="group.timing.interval_ms if group.unnotified or group.recovered else None",
        new="group.timing.interval_ms if group.unnotified else None",
        tests=("tests/core/test_group_rules.py",),
    ),
    Mutant(
        wrong="one acknowledged member ends the reminders of its whole group",
        file="alerts/groups/group_rules.py",
        old="group.acks >= group.firing",
        new="group.acks > 0",
        tests=("tests/core/test_group_rules.py", "tests/alerts/oncall/test_dead_letters.py"),
    ),
    Mutant(
        wrong="the acknowledgement of a member that is back counts for those that are still down",
        file="alerts/groups/group_rules.py",
        old="    group.acks -= member.acked\n",
        new="",
        tests=("tests/alerts/oncall/test_dead_letters.py",),
    ),
    Mutant(
        wrong="a member that is back counts as alive but rejected for as long as its group lasts",
        file="alerts/groups/group_rules.py",
        old="    group.rejected -= _is_rejected(member.event)\n",
        new="",
        tests=("tests/core/test_group_rules.py", "tests/alerts/delivery/test_rejected.py"),
    ),
    Mutant(
        wrong="a group with news is looked at when its reminder is due, not when the news are",
        file="alerts/groups/group_rules.py",
        old="return max(now_ms, min(moments)) if moments else None",
        new="return max(now_ms, max(moments)) if moments else None",
        tests=("tests/core/test_group_rules.py",),
    ),
)

_MASS: Final = (
    Mutant(
        wrong="a mass failure may be less than the share of the fleet: the threshold is rounded down",
        file="alerts/groups/mass_failure.py",
        old="ceil(self.share * expected)",
        new="int(self.share * expected)",
        tests=("tests/alerts/routing/test_mass_failure.py",),
    ),
    Mutant(
        wrong="exactly as many deaths as the threshold are no mass failure",
        file="alerts/groups/mass_failure.py",
        old="if dead >= threshold:",
        new="if dead > threshold:",
        tests=("tests/alerts/routing/test_mass_failure.py",),
    ),
    Mutant(
        wrong="deaths exactly an interval apart are not counted together",
        file="alerts/groups/mass_failure.py",
        old="int(bucket) >= oldest and",
        new="int(bucket) > oldest and",
        tests=("tests/alerts/routing/test_mass_failure.py",),
    ),
    Mutant(
        wrong="of workers with several intervals the deaths of the shortest interval are asked for",
        file="alerts/groups/mass_failure.py",
        old="newest_ms - max(window.interval_ms, *(min(event.interval_ms, LONGEST_WINDOW_MS) for event in deaths))",
        new="newest_ms - min(event.interval_ms for event in deaths)",
        tests=("tests/alerts/routing/test_mass_failure.py", "tests/alerts/routing/test_enqueue.py"),
    ),
    Mutant(
        wrong="a mass failure whose deadlines passed long before they were recorded is over at once",
        file="alerts/groups/mass_failure.py",
        old="window.declared_until_ms = max(newest_ms, now_ms) + interval_ms",
        new="window.declared_until_ms = newest_ms + interval_ms",
        tests=("tests/alerts/routing/test_mass_failure.py",),
    ),
    Mutant(
        wrong="environments of one name are counted together whatever their tenants",
        file="alerts/store/routing.py",
        old="named = [qualified(*where) for where in environments]",
        new="named = [where[1] for where in environments]",
        tests=("tests/alerts/routing/test_mass_failure.py",),
    ),
    Mutant(
        wrong="deaths in an environment that looks calm are forgotten before more come",
        file="alerts/groups/mass_failure.py",
        old="return not silent_now(window) and now_ms >= window.declared_until_ms",
        new="return now_ms >= window.declared_until_ms",
        tests=("tests/alerts/routing/test_mass_failure.py",),
    ),
)

_SINGLE: Final = (
    Mutant(
        wrong="a RESOLVED whose DOWN was given up while it waited is sent",
        file="alerts/groups/worker_rules.py",
        old="        _collapse(draft)  # the notification that was",
        new="        pass  # the notification that was",
        tests=("tests/core/test_worker_rules.py",),
    ),
    Mutant(
        wrong="a reminder that a silence held back comes up to a minute after the end of the silence",
        file="alerts/groups/attempts.py",
        old="    if until_ms is not None:\n        return Wait(min(until_ms, now_ms + RECHECK_MS), ",
        new="    if until_ms is not None:\n        return Wait(now_ms + RECHECK_MS, ",
        tests=("tests/core/test_worker_rules.py",),
    ),
    Mutant(
        wrong="a DOWN that came and went while a RESOLVED was being delivered is followed by a second RESOLVED",
        file="alerts/groups/worker_rules.py",
        old="group.in_flight.role is Role.END:\n        is_open = False",
        new="group.in_flight.role is Role.END:\n        is_open = group.notified",
        tests=("tests/core/test_worker_rules.py",),
    ),
    Mutant(
        wrong="an outage of a flapping worker has to last from when it is looked at, not from when it was detected",
        file="alerts/groups/worker_rules.py",
        old="group.damped_ms or event.detected_ms + recent.rule.hold_ms",
        new="group.damped_ms or draft.now_ms + recent.rule.hold_ms",
        tests=("tests/alerts/delivery/test_flapping.py",),
    ),
    Mutant(
        wrong="an outage that only becomes worse counts as one before itself",
        file="alerts/groups/flapping.py",
        old="return found[:-1] if is_out else found",
        new="return found",
        tests=("tests/alerts/delivery/test_flapping.py",),
    ),
)

_SILENCES: Final = (
    Mutant(
        wrong="a silence still silences at the moment at which it ends",
        file="alerts/groups/silences.py",
        old="if now_ms >= self.over_ms:",
        new="if now_ms > self.over_ms:",
        tests=("tests/core/test_silences.py",),
    ),
    Mutant(
        wrong="a silence begins a millisecond after its start",
        file="alerts/groups/silences.py",
        old="if now_ms >= self.starts_ms else",
        new="if now_ms > self.starts_ms else",
        tests=("tests/core/test_silences.py",),
    ),
    Mutant(
        wrong="a silence matches a worker that has any one of the metadata that it names",
        file="alerts/groups/silences.py",
        old="            and all(\n",
        new="            and (any if self.metadata else all)(\n",
        tests=("tests/core/test_silences.py",),
    ),
    Mutant(
        wrong="an exact name with a star in it is taken for a pattern: a token restricted to it may not silence it",
        file="alerts/groups/silences.py",
        old='pattern if self.exact or pattern is None or "*" not in pattern else None',
        new='pattern if pattern is None or "*" not in pattern else None',
        tests=("tests/core/test_silences.py", "tests/api/test_oncall.py"),
    ),
)

_ROUTING: Final = (
    Mutant(
        wrong="a worker that reported its failure itself joins the mass failure of its environment",
        file="alerts/routing/routes.py",
        old="state is not FailureState.CALM and event.kind in SILENT and",
        new="state is not FailureState.CALM and",
        tests=("tests/core/test_routes.py",),
    ),
    Mutant(
        wrong="a mass failure takes the events of a route that groups by labels",
        file="alerts/routing/routes.py",
        old="event.kind in SILENT and route.group_by == BY_WORKER:",
        new="event.kind in SILENT:",
        tests=("tests/core/test_routes.py",),
    ),
    Mutant(
        wrong="two parts of a pattern may fit the same characters",
        file="alerts/groups/classify.py",
        old="        at += len(part)\n",
        new="",
        tests=("tests/core/test_routes.py",),
    ),
)

_PLANNING: Final = (
    Mutant(
        wrong="what a silence held back of a group until it was over counts as superseded",
        file="alerts/groups/group_rules.py",
        old="outcome = Outcome.SILENCED if group.waits_for == Decision.SILENCED else Outcome.SUPERSEDED",
        new="outcome = Outcome.SUPERSEDED",
        tests=("tests/core/test_group_rules.py",),
    ),
    Mutant(
        wrong="the decision of a group is that of the notification before",
        file="alerts/delivery/planner.py",
        old="        group.waits_for = decision\n",
        new="",
        tests=("tests/core/test_group_rules.py", "tests/alerts/test_service.py"),
    ),
    Mutant(
        wrong="a large group is not reminded of when the first fifty of it are back",
        file="alerts/delivery/checks.py",
        old="if event is None and group.firing > min(len(firing), LOOKED_AT):",
        new="if event is None and not firing:",
        tests=("tests/alerts/routing/test_enqueue.py",),
    ),
    Mutant(
        wrong="news of a group wait for as long as the store knows of more returns than the group",
        file="alerts/delivery/checks.py",
        old="if news_ms is None or now_ms >= news_ms + CATCH_UP_MS:",
        new="if news_ms is None:",
        tests=("tests/alerts/routing/test_enqueue.py", "tests/alerts/test_service.py"),
    ),
    Mutant(
        wrong="failed plans of a group are counted over its whole life, not in a row",
        file="alerts/delivery/planner.py",
        old="        group.broken = 0\n        step = ",
        new="        step = ",
        tests=("tests/alerts/routing/test_enqueue.py",),
    ),
    Mutant(
        wrong="a group's notification counts what is new after the new has been marked as notified: none",
        file="alerts/delivery/planner.py",
        old="                counts = (group.unnotified, group.recovered)\n"
        "                health = await self._checks.health(group, firing)\n"
        "                in_flight = group_rules.create(draft, step, receiver=self._groups.receiver)\n",
        new="                health = await self._checks.health(group, firing)\n"
        "                in_flight = group_rules.create(draft, step, receiver=self._groups.receiver)\n"
        "                counts = (group.unnotified, group.recovered)\n",
        tests=("tests/alerts/routing/test_enqueue.py",),
    ),
)

_DEAD_LETTERS: Final = (
    Mutant(
        wrong="a dead letter that was replayed and delivered in the middle of a drop is dropped",
        file="alerts/oncall/dead_letters.py",
        old="return await self._find(nid, receiver=found.receiver), groups, seen",
        new="return found, groups, seen",
        tests=("tests/alerts/oncall/test_dead_letters.py",),
    ),
    Mutant(
        wrong="a dead letter of a group's earlier outage is sent again as news of the present one",
        file="alerts/oncall/dead_letters.py",
        old="if group is None or not group.firing or note.epoch != group.epoch:",
        new="if group is None or not group.firing:",
        tests=("tests/alerts/oncall/test_dead_letters.py",),
    ),
    Mutant(
        wrong="a token restricted to one worker sees the notifications of whole groups",
        file="alerts/oncall/dead_letters.py",
        old="worker_id is None or (event is not None and event.worker_id == worker_id)",
        new="worker_id is None or event is None or event.worker_id == worker_id",
        tests=("tests/alerts/oncall/test_dead_letters.py",),
    ),
    Mutant(
        wrong="a page of the deliveries of all receivers goes on behind the receiver that was looked through furthest",
        file="alerts/oncall/dead_letters.py",
        old="horizon = max((last for _, last in parts",
        new="horizon = min((last for _, last in parts",
        tests=("tests/alerts/oncall/test_dead_letters.py",),
    ),
    Mutant(
        wrong="an acknowledgement of an earlier incident ends the reminders of the present one",
        file="alerts/routing/acknowledge.py",
        old="if group.acked or group.incident_id not in {None, incident.id}:",
        new="if group.acked:",
        tests=("tests/alerts/oncall/test_dead_letters.py", "tests/alerts/routing/test_enqueue.py"),
    ),
    Mutant(
        wrong="a page that was given up counts as an open dead letter after its receiver was removed",
        file="alerts/oncall/removed_receivers.py",
        old="            settle(draft)\n",
        new="",
        tests=("tests/alerts/routing/test_enqueue.py",),
    ),
)

_INCIDENTS: Final = (
    Mutant(
        wrong="an acknowledgement lapses when a critical incident becomes a warning",
        file="alerts/groups/incidents.py",
        old="severity(incident.updated) != severity(event.kind) and event.kind is not EventKind.REJECTED",
        new="severity(incident.updated) != severity(event.kind)",
        tests=("tests/core/test_incidents.py",),
    ),
    Mutant(
        wrong="an environment's incident is acknowledged and reminded of in the groups of single workers too",
        file="alerts/groups/incidents.py",
        old="targets={name: key for name, key in targets.items() if shape_of(key) is Shape.ENVIRONMENT},",
        new="targets=dict(targets),",
        tests=("tests/core/test_incidents.py", "tests/alerts/store/test_incidents.py"),
    ),
    Mutant(
        wrong="an incident lasts until its end was noticed, not until it was over",
        file="alerts/groups/incidents.py",
        old="last, closed_ms=event.due_ms, closed_by=event.kind",
        new="last, closed_ms=event.detected_ms, closed_by=event.kind",
        tests=("tests/core/test_incidents.py",),
    ),
    Mutant(
        wrong="a dead letter keeps no metadata of its event",
        file="alerts/groups/state.py",
        old="_UNFINISHED: Final = frozenset({Outcome.QUEUED, Outcome.DEAD_LETTERED})",
        new="_UNFINISHED: Final = frozenset({Outcome.QUEUED})",
        tests=("tests/alerts/store/test_bounds.py", "tests/alerts/oncall/test_dead_letters.py"),
    ),
    Mutant(
        wrong="a hundred thousand dead letters of a receiver are kept",
        file="alerts/store/retention.py",
        old="DEAD_LETTERS: Final = 10_000",
        new="DEAD_LETTERS: Final = 100_000",
        tests=("tests/alerts/store/test_bounds.py::test_p26_what_is_kept_is_what_the_documents_say",),
    ),
    Mutant(
        wrong="as few outcomes of events are kept at a busy receiver as at any",
        file="alerts/store/retention.py",
        old="return max(OUTCOMES_KEPT, _PER_NOTIFICATION * self.most)",
        new="return min(OUTCOMES_KEPT, _PER_NOTIFICATION * self.most)",
        tests=("tests/alerts/store/test_bounds.py",),
    ),
)

_WORDING: Final = (
    Mutant(
        wrong="workers that are back, with the event on its way, are counted twice among those of their environment",
        file="monitor/liveness.py",
        old="min(down, self.down)",
        new="max(down, self.down)",
        tests=("tests/alerts/routing/test_mass_failure.py", "tests/alerts/test_service.py"),
    ),
    Mutant(
        wrong="a late notification says that it was late from ten minutes on, not from one",
        file="alerts/rendering/worker_text.py",
        old="LATE_MS: Final = 60_000",
        new="LATE_MS: Final = 600_000",
        tests=("tests/core/test_payload.py",),
    ),
    Mutant(
        wrong="a group's sentence counts as more workers only those whose events are at hand",
        file="alerts/rendering/group_text.py",
        old='{total - len(names):,} more" if total > len(names)',
        new='{len(events) - len(names):,} more" if len(events) > len(names)',
        tests=("tests/core/test_payload.py",),
    ),
    Mutant(
        wrong="an hour is 60 minutes",
        file="alerts/rendering/phrases.py",
        old="if seconds < 3_600:",
        new="if seconds <= 3_600:",
        tests=("tests/core/test_payload.py",),
    ),
)

MUTANTS: Final[tuple[Mutant, ...]] = (
    *_GROUP,
    *_MASS,
    *_SINGLE,
    *_SILENCES,
    *_ROUTING,
    *_PLANNING,
    *_DEAD_LETTERS,
    *_INCIDENTS,
    *_WORDING,
)
