"""Wrong changes to the HTTP server: heads, bounds, pace, connections; and to the contract's reader behind it."""

from typing import Final

from tests.mutants.mutant import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = (
    Mutant(
        wrong="a client that took an answer slowly once is cut off later although it has taken it",
        file="monitor/http/protocol.py",
        old='        """The client has read most of the answers."""\n        self._stalled_s = None\n',
        new='        """The client has read most of the answers."""\n',
        tests=("tests/http/test_server.py", "tests/http/test_bounds.py"),
    ),
    Mutant(
        wrong="of the requests that wait on a connection the newest is answered first",
        file="monitor/http/protocol.py",
        old="self._start_asgi_task(*self.pipeline.pop())",
        new="self._start_asgi_task(*self.pipeline.popleft())",
        tests=(
            "tests/http/test_bounds.py",
            "tests/api/test_fast_path.py::test_requests_in_one_write_are_answered_in_their_order",
        ),
    ),
    Mutant(
        wrong="a body in small chunks is refused as a flood of chunk heads",
        file="monitor/http/protocol.py",
        old="self._framing - (1 + BODY_SHARE) * len(body)",
        new="self._framing - len(body)",
        tests=("tests/http/test_heads.py",),
    ),
    Mutant(
        wrong="unfinished heads of strangers make each answer to others close its connection",
        file="monitor/http/fast_path.py",
        old="count > kept and count - self._shared.limits.unfinished + self._is_unfinished > kept",
        new="count > kept",
        tests=("tests/http/test_connections.py", "tests/http/test_server.py"),
    ),
    Mutant(
        wrong="after a pause of the process what is read counts as new until the turn of the loop ends",
        file="monitor/http/fairness.py",
        old="min(self._until_s, self._stall.none_until_s(now_s))",
        new="self._until_s",
        tests=("tests/core/test_fairness.py", "tests/acceptance/test_held_requests.py"),
    ),
    Mutant(
        wrong="what comes in a turn of the loop that has used up its slice is parsed all the same",
        file="monitor/http/fairness.py",
        old="self._is_begun, self.open_until_s = False, 0.0",
        new="self._is_begun, self.open_until_s = False, monotonic_s() + SLICE_S",
        tests=("tests/core/test_fairness.py", "tests/acceptance/test_held_requests.py"),
    ),
    Mutant(
        wrong="a body of another length is taken behind a head that is known",
        file="monitor/http/known_heads.py",
        old="if known is None or len(body) != known[1]:",
        new="if known is None:",
        tests=("tests/core/test_known_heads.py",),
    ),
    Mutant(
        wrong="a head is kept although other bytes came with its request",
        file="monitor/http/known_heads.py",
        old="if not body or rest != body or len(head) > _LONGEST:",
        new="if not body or len(head) > _LONGEST:",
        tests=("tests/core/test_known_heads.py",),
    ),
    Mutant(
        wrong="many more heads are kept than there is room for",
        file="monitor/http/known_heads.py",
        old="if len(self._known) >= self._most:",
        new="if len(self._known) > 10 * self._most:",
        tests=("tests/core/test_known_heads.py",),
    ),
    Mutant(
        wrong="a connection keeps the body of a request that came in two reads after its answer",
        file="monitor/http/protocol.py",
        old="                self._keep(data, *self._taken)\n            self._taken = None\n",
        new="                self._keep(data, *self._taken)\n                self._taken = None\n",
        tests=(
            "tests/api/test_fast_path.py::test_p29_a_connection_keeps_neither_body_nor_token_of_a_beat_that_is_answered",
        ),
    ),
    Mutant(
        wrong="a connection whose request came in two reads seems to hold no request ever after",
        file="monitor/http/protocol.py",
        old="            self._framing = 0\n            self._shared.limits.end(self)\n",
        new="            self._shared.limits.end(self)\n",
        tests=("tests/api/test_fast_path.py::test_p29_a_request_that_waits_behind_one_in_two_reads_is_seen",),
    ),
    Mutant(
        wrong="a request behind the beginning of another one is taken, if its head is known",
        file="monitor/http/protocol.py",
        old="is_whole = self._is_between",
        new="is_whole = True",
        tests=("tests/api/test_fast_path.py::test_what_is_no_request_before_one_whose_head_is_known_is_400",),
    ),
    Mutant(
        wrong="a request whose head is known is taken before the one before it is answered",
        file="monitor/http/fast_path.py",
        old=" or not self._is_free()",
        new="",
        tests=(
            "tests/api/test_fast_path.py::test_a_request_whose_head_is_known_waits_for_the_answer_to_the_one_before_it",
        ),
    ),
    Mutant(
        wrong="a beat behind a request that is not answered yet takes the fast path past it",
        file="monitor/http/protocol.py",
        old="            and self._is_free()\n",
        new="",
        tests=(
            "tests/http/test_bounds.py",
            "tests/api/test_fast_path.py::test_requests_in_one_write_are_answered_in_their_order",
        ),
    ),
    Mutant(
        wrong="a body that is both compressed and chunked by its Transfer-Encoding is read as a plain one",
        file="monitor/http/head.py",
        old='if value.strip().lower() != b"chunked":',
        new='if b"chunked" not in value.lower():',
        tests=("tests/http/test_requests.py",),
    ),
    Mutant(
        wrong="the fast path says that it closes the connection, and leaves it open",
        file="monitor/http/fast_path.py",
        old="        if not self.keep_alive:\n            transport.close()\n",
        new="",
        tests=(
            "tests/http/test_bounds.py::test_connection_close_is_answered_closed_and_nothing_behind_it_is_taken",
            "tests/http/test_bounds.py::test_p28_above_the_cap_a_beat_is_stored_and_its_connection_is_closed",
        ),
    ),
    Mutant(
        wrong="the memory of a head is not given back when the head is whole",
        file="monitor/http/connections.py",
        old='complete."""\n        self._heads_bytes -= self._unfinished[connection]\n',
        new='complete."""\n',
        tests=(
            "tests/http/test_connections.py::test_p28_unfinished_heads_hold_a_bounded_number_of_bytes_and_the_oldest_go_first",
        ),
    ),
    Mutant(
        wrong="a head that needs the room of several others closes only one of them",
        file="monitor/http/connections.py",
        old="while self._heads_bytes > HEADS_BYTES and",
        new="if self._heads_bytes > HEADS_BYTES and",
        tests=(
            "tests/http/test_connections.py::test_p28_a_head_that_grows_makes_as_many_others_end_as_it_needs_room",
            "tests/http/test_connections.py::test_p28_unfinished_heads_hold_a_bounded_number_of_bytes_and_the_oldest_go_first",
        ),
    ),
    Mutant(
        wrong="where few files may be open, all of them may be connections and none is left for the store",
        file="monitor/http/server.py",
        old="math.floor((soft - SPARE_DESCRIPTORS) / HARD_SHARE)",
        new="math.floor(soft / HARD_SHARE)",
        tests=(
            "tests/acceptance/test_start_and_stop.py::test_the_limit_of_connections_follows_the_descriptors_that_there_are",
        ),
    ),
    Mutant(
        wrong="what comes now overtakes what waits for a turn of the loop",
        file="monitor/http/fairness.py",
        old="if now_s < self._until_s and not self._queue:",
        new="if now_s < self._until_s:",
        tests=("tests/core/test_fairness.py",),
        survives="requests wait only when the slice of the turn is used up, so none can come in time while others wait",
    ),
    Mutant(
        wrong="the newest request that waits for a turn stands for how long they wait",
        file="monitor/http/fairness.py",
        old="monotonic_s() - self._queue[0][1]",
        new="monotonic_s() - self._queue[-1][1]",
        tests=("tests/core/test_fairness.py",),
    ),
    Mutant(
        wrong="a daemon that waits for its store says that it is not alive, and is restarted",
        file="monitor/daemon/waiting.py",
        old='json_answer({"status": "ok", "reasons": []})',
        new='json_answer({"status": "ok", "reasons": []}, status_code=503)',
        tests=(
            "tests/acceptance/test_start_and_stop.py::test_p27_while_the_store_is_not_there_the_port_is_open_and_says_so",
            "tests/acceptance/test_start_and_stop.py::test_p27_while_the_embedded_store_loads_the_port_is_open_and_says_so",
        ),
    ),
    Mutant(
        wrong="in a day only one tenant's expiring tokens are logged",
        file="monitor/daemon/expiring.py",
        old="if tenant not in self._warned_ms:",
        new="if not self._warned_ms:",
        tests=("tests/core/test_expiring.py",),
    ),
    Mutant(
        wrong="an error shows the password in a URL that stands under a key of another name",
        file="monitor/daemon/config/errors.py",
        old='if any(name.endswith("url") for name in names) or "://" in shown:',
        new='if any(name.endswith("url") for name in names):',
        tests=("tests/config/test_secrets.py",),
    ),
    Mutant(
        wrong="probes wait behind all requests that came before them",
        file="monitor/pace.py",
        old="            self._next_up, self._other = self._other, self._next_up\n            if",
        new="            if",
        tests=("tests/core/test_pace.py",),
    ),
    Mutant(
        wrong="a token for several environments registers workers that name none in the first of them",
        file="monitor/api/contract/beats.py",
        old="if allowed and len(allowed) == 1 else",
        new="if allowed else",
        tests=("tests/api/test_heartbeats.py", "tests/core/test_contract.py"),
    ),
    Mutant(
        wrong="a worker may declare a grace as long as the longest interval",
        file="monitor/api/contract/beats.py",
        old="most=limits.max_grace_ms",
        new="most=limits.max_interval_ms",
        tests=("tests/core/test_contract.py",),
    ),
)
