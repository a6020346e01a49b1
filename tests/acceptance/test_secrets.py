"""No output of a daemon holds a secret."""

import http.client

from tests.support.daemons import ANY_PORT, BEAT, WEBHOOK_SECRET, Home, Receiver, call

SEEN_IN_A_QUERY = "swordfish-in-a-query"
SEEN_IN_A_PATH = "swordfish-in-a-webhook-path"
SEEN_IN_A_PASSWORD = "swordfish-in-a-store-url"
QUICK = '[liveness]\ninterval = "1s"\ngrace = "1s"\nsweep_interval = "200ms"\n[log]\nlevel = "debug"\n'


def test_neither_token_nor_key_nor_webhook_secret_nor_query_is_ever_written(home: Home) -> None:
    receiver = Receiver(path=f"/{SEEN_IN_A_PATH}?key={SEEN_IN_A_QUERY}")
    try:
        home.write(ANY_PORT + QUICK + receiver.section())
        key = (home.directory / "data" / "signing-key").read_text(encoding="utf-8").strip()
        daemon = home.start()
        assert daemon.beat("w").status == 204
        query = f"?x={SEEN_IN_A_QUERY}"
        statuses = {
            daemon.call("POST", f"{BEAT}{query}", body={"worker_id": "w", "environment_name": "prod"}).status,
            daemon.call("GET", f"/api/v1/workers/w{query}").status,
            daemon.call("GET", f"/api/v1/workers{query}").status,
            daemon.call("GET", f"/nowhere{query}").status,
            daemon.call("PATCH", f"{BEAT}{query}").status,
            daemon.call("POST", f"{BEAT}{query}", body=b"not JSON").status,
            daemon.call("POST", f"{BEAT}{query}", body=b"[" * 300_000).status,
            call(daemon.url, "POST", f"{BEAT}{query}", token=home.master[:-4], body={}).status,
            call(daemon.url, "GET", f"/metrics{query}", token=home.master).status,
        }
        assert statuses >= {204, 200, 401, 404, 405, 413, 422}
        broken = http.client.HTTPConnection("127.0.0.1", daemon.port)
        broken.request("GET", "/livez", headers={"authorization": f"Bearer {home.master}", "content-length": "1x"})
        assert broken.getresponse().status == 400
        broken.close()

        daemon.wait_for("delivery.failed", type="worker.stale")
        receiver.answer = 500
        receiver.open()
        daemon.wait_for("delivery.failed", type="worker.stale", reason="receiver 'ops': HTTP 500")
        receiver.answer = None
        daemon.wait_for("delivery.failed", type="worker.stale", reason="receiver 'ops': no answer within 1 s")
        receiver.answer = 204
        daemon.wait_for("delivery.delivered", type="worker.stale")
        daemon.stop()

        written = daemon.output()
        for name in ("metrics", "store/valkey.log"):
            path = home.directory / "data" / name
            written += path.read_text(encoding="utf-8") if path.exists() else ""
        secret = WEBHOOK_SECRET.removeprefix("whsec_")
        signature = home.master.rpartition(".")[2]
        for forbidden in (home.master, signature, key, secret, SEEN_IN_A_QUERY, SEEN_IN_A_PATH):
            assert forbidden not in written
    finally:
        receiver.close()
    assert receiver.bad == []


def test_the_password_of_a_store_that_does_not_answer_is_not_written(empty_home: Home) -> None:
    empty_home.write("k" * 32, "token-secret")
    empty_home.write(f'{ANY_PORT}[[auth.keys]]\nkid = "k1"\nalgorithm = "HS256"\nsecret_file = "token-secret"\n')
    url = f"redis://lastseen:{SEEN_IN_A_PASSWORD}@127.0.0.1:1/0"
    daemon = empty_home.launch("--config", "lastseen.toml", env={"LASTSEEN_STORE__URL": url})
    daemon.wait_for("store.unavailable")
    daemon.kill()
    assert SEEN_IN_A_PASSWORD not in daemon.output()
