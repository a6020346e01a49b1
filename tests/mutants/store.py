"""Wrong changes to the store's Lua and Python: beat, sweep, blindness, commit, revocations."""

from typing import Final

from tests.mutants.mutant import Mutant

_MOVED: Final = (
    "tests/store/test_blindness.py"
    "::test_p1_a_deadline_that_was_open_is_moved_to_an_interval_and_a_grace_after_the_window"
)

MUTANTS: Final[tuple[Mutant, ...]] = (
    Mutant(
        wrong="a partition that is not founded is founded by whatever call comes first",
        file="monitor/store/lua/lastseen.lua",
        old="if not st.founded and name ~= 'found' then",
        new="if not st.founded and name == 'sweep' then",
        tests=("tests/store/test_founding.py",),
    ),
    Mutant(
        wrong="a start founds the part of a store that was lost",
        file="monitor/store/schema.py",
        old="if not (missing and is_complete):",
        new="if not (missing and not is_complete):",
        tests=("tests/store/test_founding.py",),
    ),
    Mutant(
        wrong="a key is written that has no tag",
        file="alerts/store/silences.lua",
        old="redis.call('HSET', base .. 'silences_versions', tenant, id)",
        new="redis.call('HSET', base .. 'silences_versions', tenant, id)  redis.call('SET', 'last_silence', id)",
        tests=("tests/acceptance/test_keys.py",),
    ),
    Mutant(
        wrong="a key is written that the documentation does not name",
        file="alerts/store/incidents.lua",
        old="HSET', base .. 'incident_of_worker', known[I_WORKER], id)",
        new="HSET', base .. 'incident_of_worker', known[I_WORKER], id)  redis.call('SET', base .. 'incidents:a:b', id)",
        tests=("tests/acceptance/test_keys.py",),
    ),
    Mutant(
        wrong="a founding that was cut off counts as a store that has lost a part",
        file="monitor/store/connection.py",
        old="is_complete=founding is None,",
        new="is_complete=True,",
        tests=("tests/store/test_founding.py",),
    ),
    Mutant(
        wrong="a call declares the base of its tag alone",
        file="monitor/store/connection.py",
        old="""{function}", 2, base, anchor, *args)""",
        new="""{function}", 2, anchor, anchor, *args)""",
        tests=("tests/store/test_founding.py",),
    ),
    # Blindness ----------------------------------------------------------------------------------------------------
    Mutant(
        wrong="a daemon that was behind for less than an interval moves deadlines that three blind windows have moved",
        file="monitor/store/lua/blindness.lua",
        old="(is_ongoing and GAP_MS or math.max(GAP_MS, interval - 1))",
        new="GAP_MS",
        tests=(
            (
                "tests/store/test_blindness.py::"
                "test_p2_stalls_of_a_daemon_that_says_that_it_is_behind_move_a_deadline_three_times_too"
            ),
        ),
    ),
    Mutant(
        wrong="a deadline is moved by a blind window that begins in its own millisecond",
        file="monitor/store/lua/blindness.lua",
        old="    if due <= from then\n",
        new="    if due < from then\n",
        tests=(_MOVED,),
    ),
    Mutant(
        wrong="a blind window adds its length to the deadline, and no whole interval and grace",
        file="monitor/store/lua/blindness.lua",
        old="        due = till + allowance\n",
        new="        due = due + till - from\n",
        tests=(_MOVED,),
    ),
    Mutant(
        wrong="a blind window exactly as long as the interval counts as a short one",
        file="monitor/store/lua/blindness.lua",
        old="if till - from >= interval then",
        new="if till - from > interval then",
        tests=("tests/store/test_blindness.py::test_p1_the_library_moves_deadlines_to_the_same_moments",),
    ),
    Mutant(
        wrong="a short blind window that moves a deadline by nothing uses up one of its three credits",
        file="monitor/store/lua/blindness.lua",
        old="if till + allowance > due then",
        new="if till + allowance >= due then",
        tests=("tests/store/test_blindness.py::test_p1_the_library_moves_deadlines_to_the_same_moments",),
    ),
    Mutant(
        wrong="a blind window that ended in the millisecond of the last beat is listed among what was missed since",
        file="monitor/store/lua/blindness.lua",
        old="if window[2] > from then",
        new="if window[2] >= from then",
        tests=("tests/store/test_blindness.py::test_p1_the_library_moves_deadlines_to_the_same_moments",),
    ),
    Mutant(
        wrong="of several blind windows only the newest stops the clock of the retention",
        file="monitor/store/lua/blindness.lua",
        old="for k = #windows, 1, -1 do",
        new="for k = #windows, math.max(1, #windows), -1 do",
        tests=("tests/store/test_blindness.py::test_p26_retention_leaves_out_each_of_several_blind_windows",),
    ),
    Mutant(
        wrong="of too many blind windows the two that lie furthest apart become one",
        file="monitor/store/lua/pulse.lua",
        old="if windows[k + 1][1] - windows[k][2] < windows[closest + 1][1]",
        new="if windows[k + 1][1] - windows[k][2] > windows[closest + 1][1]",
        tests=("tests/store/test_blindness.py::test_p26_windows_are_bounded_in_number_and_the_closest_become_one",),
    ),
    Mutant(
        wrong="a daemon that said goodbye a moment ago counts as there when the next one starts",
        file="monitor/store/lua/pulse.lua",
        old="if known[4] == 0 and st.t - known[1] <= GAP_MS then",
        new="if st.t - known[1] <= GAP_MS then",
        tests=(
            "tests/store/test_blindness.py::test_p1_the_start_of_the_last_daemon_is_the_end_of_a_window_however_quick_it_was",
            "tests/store/test_pulse.py",
        ),
    ),
    # Workers ------------------------------------------------------------------------------------------------------
    Mutant(
        wrong="a refused beat in the millisecond of an accepted one counts as newer",
        file="monitor/store/lua/workers.lua",
        old="found[2] > w.rec[R_LAST_SEEN] and found",
        new="found[2] >= w.rec[R_LAST_SEEN] and found",
        tests=(
            "tests/store/test_blindness.py::test_p11_a_beat_that_is_refused_counts_from_the_millisecond_after_an_accepted_one",
        ),
    ),
    Mutant(
        wrong="a gap of the daemon that begins exactly at a worker's deadline moves that deadline",
        file="monitor/store/lua/workers.lua",
        old="if from and from < due and",
        new="if from and from <= due and",
        tests=(
            "tests/store/test_blindness.py::test_p2_a_deadline_at_which_its_daemon_was_still_there_is_moved_by_nothing_after_it",
        ),
    ),
    Mutant(
        wrong="a worker whose beats are refused stays rejected for four intervals and the grace, not three",
        file="monitor/store/lua/workers.lua",
        old="(REJECTED_INTERVALS - 1) * w.cohort[C_INTERVAL]",
        new="REJECTED_INTERVALS * w.cohort[C_INTERVAL]",
        tests=(
            (
                "tests/store/test_blindness.py::"
                "test_p11_three_intervals_and_the_grace_after_its_last_accepted_beat_a_rejected_worker_is_stale_too"
            ),
        ),
    ),
    Mutant(
        wrong="a worker whose last refused beat stops counting exactly at the limit is said to be rejected still",
        file="monitor/store/lua/workers.lua",
        old="rejected[2] + w.cohort[C_INTERVAL] + w.cohort[C_GRACE] > ends",
        new="rejected[2] + w.cohort[C_INTERVAL] + w.cohort[C_GRACE] >= ends",
        tests=("tests/store/test_blindness.py::test_p11_refused_beats_whose_time_ends_at_the_limit_have_ended",),
    ),
    Mutant(
        wrong="the metadata and logs of an erased worker count against its tenant permanently",
        file="monitor/store/lua/workers.lua",
        old=" - bytes_of(w.worker) - call('HSTRLEN', st.keys.cold, w.mid))",
        new=" - bytes_of(w.worker))",
        tests=("tests/store/test_store.py",),
    ),
    Mutant(
        wrong="the end of a worker's refused beats is left behind when it is accepted again",
        file="monitor/store/lua/workers.lua",
        old="    if MOVE[state][REJECTIONS_ENDED] then\n      set_in(st.refused",
        new="    if false then\n      set_in(st.refused",
        tests=(
            "tests/store/test_store.py::test_p16_the_health_of_an_environment_counts_workers_that_became_stale_since_a_time",
        ),
    ),
    # Commit -------------------------------------------------------------------------------------------------------
    Mutant(
        wrong="a cohort of which every worker is down is dropped, and its workers with it",
        file="monitor/store/lua/commit.lua",
        old="if call('EXISTS', st.base .. 'alive:' .. cohort_id, st.base .. 'down:' .. cohort_id) == 0 then",
        new="if call('EXISTS', st.base .. 'alive:' .. cohort_id) == 0 then",
        tests=("tests/store/test_store.py", "tests/store/test_absence.py"),
    ),
    Mutant(
        wrong="each new event makes the whole history of its tenant as young as itself, so age ends none of it",
        file="monitor/store/lua/commit.lua",
        old="call('ZADD', st.keys.history_began, 'NX', st.now, tenant)",
        new="call('ZADD', st.keys.history_began, st.now, tenant)",
        tests=("tests/store/test_store.py",),
    ),
    # Beat ---------------------------------------------------------------------------------------------------------
    Mutant(
        wrong="a declared grace is bounded by the longest interval, not by the longest grace",
        file="monitor/store/lua/beat.lua",
        old="math.max(bounds[3], math.min(grace, bounds[4]))",
        new="math.max(bounds[3], math.min(grace, bounds[2]))",
        tests=("tests/store/test_store.py",),
    ),
    Mutant(
        wrong="of several rules that match an environment the last one decides its interval",
        file="monitor/store/lua/beat.lua",
        old="        found = { rule[2], rule[3] }\n        break\n",
        new="        found = { rule[2], rule[3] }\n",
        tests=("tests/store/test_store.py::test_of_the_rules_that_match_an_environment_the_first_one_counts",),
    ),
    Mutant(
        wrong="a token for other environments may send the ordinary beats of an alive worker",
        file="monitor/store/lua/beat.lua",
        old="or (profile[P_ALLOWED] and not contains(profile[P_ALLOWED], g[C_ENVIRONMENT]))",
        new="or false",
        tests=("tests/store/test_store.py", "tests/daemon/test_trust.py"),
    ),
    Mutant(
        wrong="an ordinary beat exactly at the deadline hides the outage",
        file="monitor/store/lua/beat.lua",
        old="if gap < steady[2] and",
        new="if gap <= steady[2] and",
        tests=("tests/store/test_store.py",),
    ),
    Mutant(
        wrong="a straggler that is expected back exactly at its deadline falls back to stopped",
        file="monitor/store/lua/beat.lua",
        old="if back and back <= st.t + interval + grace then",
        new="if back and back < st.t + interval + grace then",
        tests=("tests/store/test_absence.py",),
    ),
    Mutant(
        wrong="a batch reports the longest grace among its workers instead of the shortest",
        file="monitor/store/lua/beat.lua",
        old="if grace and (not least or grace < least) then",
        new="if grace and (not least or grace > least) then",
        tests=("tests/store/test_store.py::test_p28_a_batch_reports_the_shortest_grace_among_its_workers",),
    ),
    Mutant(
        wrong="a failure report registers a worker in an environment that its token is not for",
        file="monitor/store/lua/beat.lua",
        old="judge(st, settings, { [P_ALLOWED] = a[5] }, w, environment, 0)",
        new="judge(st, settings, {}, w, environment, 0)",
        tests=(
            "tests/store/test_store.py::test_p24_a_failure_registers_no_worker_in_an_environment_that_its_token_is_not_for",
        ),
    ),
    # Orders -------------------------------------------------------------------------------------------------------
    Mutant(
        wrong="a beat that we were too busy for moves a deadline that had passed already",
        file="monitor/store/lua/orders.lua",
        old="        if st.t < due then\n          set_anchor(st, w, st.t)",
        new="        if due then\n          set_anchor(st, w, st.t)",
        tests=(
            "tests/store/test_blindness.py::test_p2_a_beat_that_we_were_too_busy_for_after_the_deadline_moves_it_no_more",
        ),
    ),
    Mutant(
        wrong="a worker that reported its failure and then beats on is stopped at its deadline, not stale",
        file="monitor/store/lua/orders.lua",
        old="w.rec[R_LEFT] = a[4] and st.t or 0",
        new="w.rec[R_LEFT] = st.t",
        tests=("tests/store/test_store.py::test_a_beat_after_a_failure_is_no_straggler_s",),
    ),
    Mutant(
        wrong="refused beats hold a worker off from being silent for as long as they come",
        file="monitor/store/lua/orders.lua",
        old="math.max(ends, math.min(st.t + allowance, refusals_limit(w)))",
        new="math.max(ends, st.t + allowance)",
        tests=(
            (
                "tests/store/test_blindness.py::"
                "test_p11_three_intervals_and_the_grace_after_its_last_accepted_beat_a_rejected_worker_is_stale_too"
            ),
        ),
    ),
    # Sweep --------------------------------------------------------------------------------------------------------
    Mutant(
        wrong="purge forgets who was stopped for longer than the retention though an outage prolonged its absence",
        file="monitor/store/lua/sweep.lua",
        old="        if since <= cut then\n          erase",
        new="        if since then\n          erase",
        tests=("tests/store/test_blindness_cases.py",),
    ),
    Mutant(
        wrong="a sweep goes on while no daemon has said that it accepts beats",
        file="monitor/store/lua/sweep.lua",
        old="if #due > 0 and blindness(st).now then",
        new="if false then",
        tests=(
            "tests/store/test_pulse.py",
            "tests/store/test_blindness.py::test_p1_whatever_comes_first_after_an_outage_expires_no_worker",
            "tests/store/test_blindness.py::test_p13_a_restarted_store_is_blind_until_the_next_pulse_however_quick_it_was",
        ),
    ),
    Mutant(
        wrong="the first chunk of a long pass counts as a full sweep of the partition",
        file="monitor/store/lua/sweep.lua",
        old="  if not more then\n    call('HSET', st.keys.meta, 'swept', st.now)",
        new="  if left then\n    call('HSET', st.keys.meta, 'swept', st.now)",
        tests=("tests/store/test_store.py::test_p22_a_sweep_counts_as_full_when_its_last_chunk_is_done",),
    ),
    # Outbox -------------------------------------------------------------------------------------------------------
    Mutant(
        wrong="the history ages while the monitor is blind",
        file="monitor/store/lua/outbox.lua",
        old="local old = '(' .. int(age_cut(st, keep))",
        new="local old = '(' .. int(st.t - keep)",
        tests=(
            "tests/store/test_store.py",
            "tests/store/test_blindness.py::test_p26_retention_counts_time_outside_blind_windows",
        ),
    ),
    Mutant(
        wrong="a confirmation in the millisecond of the last write waits for nothing",
        file="monitor/store/lua/outbox.lua",
        old="  commit_time(st)\n  call('HSET', st.keys.meta, 'last', st.now)\n",
        new="  commit_time(st)\n",
        tests=(
            "tests/store/test_confirm.py::test_p23_a_confirmation_in_the_millisecond_of_the_last_write_waits_for_it_too",
        ),
    ),
    Mutant(
        wrong="a daemon takes the lease of a partition from its owner",
        file="monitor/store/lua/pulse.lua",
        old="local may_take = left <= 0 and (",
        new="local may_take = (",
        tests=("tests/store/test_owners.py",),
    ),
    Mutant(
        wrong="an owner that is behind with beats loses its partitions",
        file="monitor/pulse.py",
        old="bid = Bid.NONE if ends else self._ownership.bid(partition)",
        new="bid = Bid.NONE if ends or behind else self._ownership.bid(partition)",
        tests=("tests/store/test_pulse.py",),
    ),
    Mutant(
        wrong="a partition stays without an owner while the daemon that is to own it hangs",
        file="monitor/store/lua/pulse.lua",
        old="bid == LEASE.SPARE and left <= -LEASE.SPARE_MS)",
        new="false)",
        tests=("tests/store/test_owners.py",),
    ),
    Mutant(
        wrong="an owner goes on under the lease that another daemon has by now",
        file="monitor/store/lua/outbox.lua",
        old="if held[1] ~= args[1] then",
        new="if not held[1] then",
        tests=(
            "tests/store/test_store.py::test_the_router_s_lease_is_fenced_and_its_cursor_moves_only_for_its_holder",
        ),
    ),
    Mutant(
        wrong="events of a partition that another daemon owns are no reason, however long they wait",
        file="monitor/store/outbox.py",
        old="max(now_s - at_s, self._ownership.unrouted_s(one))",
        new="max(now_s - at_s, 0.0)",
        tests=("tests/store/test_owners.py",),
    ),
    # Reading ------------------------------------------------------------------------------------------------------
    Mutant(
        wrong="who became stale in the very millisecond from which on they are counted is left out of a mass failure",
        file="monitor/store/lua/reading.lua",
        old="call('ZCOUNT', st.base .. 'down:' .. cohort_id, since, int(st.t))",
        new="call('ZCOUNT', st.base .. 'down:' .. cohort_id, '(' .. since, int(st.t))",
        tests=(
            "tests/store/test_store.py::test_p16_the_health_of_an_environment_counts_a_worker_that_became_stale_in_the_same_millisecond",
        ),
    ),
    Mutant(
        wrong="the counts take an absence that an outage prolonged for one that has ended",
        file="monitor/store/lua/reading.lua",
        old="call('ZCOUNT', st.base .. 'absent:' .. cohort_id, '-inf', int(cut))",
        new="call('ZCOUNT', st.base .. 'absent:' .. cohort_id, '-inf', st.now)",
        tests=(
            "tests/store/test_absence.py",
            "tests/store/test_blindness.py::test_p1_an_announced_absence_that_ends_in_an_outage_is_waited_for_again",
        ),
    ),
    Mutant(
        wrong="a poller passes events that are recorded after a step back of the server's clock",
        file="monitor/store/lua/reading.lua",
        old="return { st.t, st.swept, st.last, events }",
        new="return { st.t, st.swept, st.t, events }",
        tests=(
            "tests/api/test_pages.py::test_an_event_that_is_recorded_after_a_step_back_of_the_server_s_clock_is_not_passed",
        ),
    ),
    Mutant(
        wrong="the health of an environment is that of the first partition",
        file="monitor/store/counts.py",
        old="await gathered(add, range(partitions))",
        new="await gathered(add, range(1))",
        tests=("tests/store/test_partitions.py",),
    ),
    # Revocations, and the installation ----------------------------------------------------------------------------
    Mutant(
        wrong="tokens that were issued after a first revocation stay good though the same is revoked again",
        file="monitor/store/lua/revocations.lua",
        old="cmsgpack.pack({ args[1], args[2], args[3], st.t })",
        new="known[1] or cmsgpack.pack({ args[1], args[2], args[3], st.t })",
        tests=("tests/store/test_revocations.py::test_p24_what_is_revoked_again_covers_the_tokens_issued_in_between",),
    ),
    Mutant(
        wrong="another installation is refused once, and is at home from its second start on",
        file="monitor/store/lua/lastseen.lua",
        old="if is_ours and new then",
        new="if new then",
        tests=("tests/store/test_store.py",),
    ),
    # Python -------------------------------------------------------------------------------------------------------
    Mutant(
        wrong="the first confirmation of a partition stands for all later ones",
        file="monitor/store/coalescing.py",
        old="            self._next = None\n            return await self._call()",
        new="            return await self._call()",
        tests=("tests/store/test_confirm.py::test_p23_each_confirmation_is_asked_for_anew",),
    ),
    Mutant(
        wrong="a confirmation that is under way stands for what was committed after it began",
        file="monitor/store/coalescing.py",
        old="            self._next = None\n            return await self._call()",
        new="            result = await self._call()\n            self._next = None\n            return result",
        tests=("tests/api/test_tenants.py::test_p29_concurrent_callers_of_the_health_share_one_call",),
    ),
    Mutant(
        wrong="a write that was to reach two replicas is confirmed when it has reached one",
        file="monitor/store/connection.py",
        old="if waited >= durability.replicas else",
        new="if waited >= 1 else",
        tests=("tests/store/test_confirm.py::test_p23_one_replica_is_not_two",),
    ),
    Mutant(
        wrong="a write is confirmed though the server did not bring it to its disk in time",
        file="monitor/store/connection.py",
        old="if waited[0] >= 1 else",
        new="if waited[0] >= 0 else",
        tests=("tests/store/test_confirm.py::test_p23_each_confirmation_is_asked_for_anew",),
    ),
    Mutant(
        wrong="a failure that only the former primary has is confirmed by the new one",
        file="monitor/store/store.py",
        old="if run not in {0, confirmed_by}:",
        new="if False:",
        tests=("tests/store/test_confirm.py",),
    ),
    Mutant(
        wrong="a write that is not confirmed is answered as if it were",
        file="monitor/store/store.py",
        old="if confirmation is Confirmation.UNCONFIRMED:",
        new="if False:",
        tests=("tests/store/test_confirm.py::test_p23_each_confirmation_is_asked_for_anew",),
    ),
    Mutant(
        wrong="the partition that was swept last speaks for all of them",
        file="monitor/store/store.py",
        old="max(now_ms for now_ms, _ in answers), min(swept_ms for _, swept_ms in answers)",
        new="max(now_ms for now_ms, _ in answers), max(swept_ms for _, swept_ms in answers)",
        tests=("tests/api/test_reading.py::test_p27_the_sweep_lags_where_one_partition_of_several_was_not_swept",),
    ),
    Mutant(
        wrong="a tenant may have its whole number of workers in each partition",
        file="monitor/store/lua/beat.lua",
        old="return math.floor(workers / partitions), math.floor(bytes / partitions)",
        new="return workers, bytes",
        tests=(
            "tests/store/test_store.py::test_the_share_of_each_partition_keeps_a_tenant_within_its_quotas",
            "tests/intake/test_quotas.py",
        ),
    ),
    Mutant(
        wrong="a division of a quota takes back the room that the one before has promised",
        file="monitor/store/lua/beat.lua",
        old="local held = part and st.t < part.till and part.held or { 0, 0 }",
        new="local held = { 0, 0 }",
        tests=("tests/intake/test_quotas.py::test_p26_many_more_registrations_at_once_fill_the_quota_and_no_more",),
    ),
    Mutant(
        wrong="a partition without workers of a tenant forgets how the quota was divided",
        file="monitor/store/lua/commit.lua",
        old="if known.changed and known.n == 0 and not known.quota then",
        new="if known.changed and known.n == 0 then",
        tests=("tests/intake/test_quotas.py",),
    ),
    Mutant(
        wrong="each beat that a full quota refuses makes all partitions divide it again",
        file="monitor/store/quotas.py",
        old="            if not free:\n",
        new="            if free < 0:\n",
        tests=("tests/intake/test_quotas.py",),
    ),
    Mutant(
        wrong="an announced absence reads as over though an outage of the monitor prolonged it",
        file="monitor/store/lua/reading.lua",
        old="local missed = back and credited(st, back, allowance, interval)",
        new="local missed = back",
        tests=(
            "tests/store/test_blindness.py::test_p1_an_announced_absence_that_ends_in_an_outage_is_waited_for_again",
        ),
    ),
    Mutant(
        wrong="routing is well while one partition of several is not looked at",
        file="monitor/store/outbox.py",
        old="return max(max(now_s - at_s",
        new="return min(max(now_s - at_s",
        tests=("tests/daemon/test_self_check.py::test_routing_lags_while_one_partition_of_several_is_not_looked_at",),
    ),
    Mutant(
        wrong="an event is routed that no replica has, and is lost in a failover after it was notified",
        file="monitor/store/outbox.py",
        old="if taken and taken.events and self._store.settings.durability.replicas:",
        new="if False:",
        tests=("tests/store/test_confirm.py",),
    ),
    Mutant(
        wrong="a page takes a call to the store more than it needs",
        file="monitor/store/outbox.py",
        old="if taken and taken.events and self._store.settings.durability.replicas:",
        new="if taken and taken.events:",
        tests=("tests/bench/test_costs.py",),
    ),
    Mutant(
        wrong="a primary confirms events that were read from the one before it",
        file="monitor/store/outbox.py",
        old="taken = await claim(confirmed=True)",
        new="await claim(confirmed=True)",
        tests=("tests/store/test_confirm.py",),
    ),
    Mutant(
        wrong="a replica that Sentinel names is taken for the primary",
        file="monitor/store/sentinel.py",
        old='if role[0] != b"master":',
        new="if not role:",
        tests=("tests/store/test_sentinel.py::test_a_sentinel_that_names_a_replica_is_not_believed",),
    ),
    Mutant(
        wrong="two releases that differ in the table of transitions alone share one function library",
        file="monitor/store/library.py",
        old="hashlib.sha256(body.encode())",
        new="hashlib.sha256(text(main).encode())",
        tests=("tests/store/test_functions.py",),
    ),
    Mutant(
        wrong="what replicas wait for counts as used memory of the store",
        file="monitor/store/results.py",
        old='int(memory["used_memory"]) - int(memory.get("mem_not_counted_for_evict", 0))',
        new='int(memory["used_memory"])',
        tests=(
            "tests/daemon/test_self_check.py::test_p26_what_the_server_keeps_for_replicas_and_its_file_takes_none_of_its_limit",
        ),
    ),
    Mutant(
        wrong="a tenant with too many timings gets the error of too many bytes",
        file="monitor/store/lua/beat.lua",
        old="return OVER_TIMINGS\n",
        new="return OVER_BYTES\n",
        tests=("tests/store/test_store.py",),
    ),
    Mutant(
        wrong="ten times as many revocations fit into the list as the documentation says",
        file="monitor/store/revocations.py",
        old="MOST_IN_ALL: Final = 10_000",
        new="MOST_IN_ALL: Final = 100_000",
        tests=("tests/store/test_revocations.py::test_p26_ten_thousand_revocations_fit_into_the_list",),
    ),
)
