"""Human-readable summary of what a daemon with this configuration does, without credentials."""

from collections.abc import Iterator

from alerts.receivers import PostingSettings
from monitor.daemon.config.model import Config
from monitor.data_dir_ownership import KEY_FILE, own_dir
from monitor.settings.urls import masked_url


def plan(config: Config) -> Iterator[str]:
    """Yield the lines, in the order of the sections."""
    server, store = config.server, config.store
    data_dir = own_dir(store.data_dir)
    yield f"listens on {server.host} port {server.port or 'any'}, processes: {server.processes}"
    yield f"store: embedded, in {data_dir}" if store.embedded else f"store: {masked_url(store.url)}"
    kids = [f"{key.kid} ({key.algorithm})" for key in config.auth.keys]
    yield f"keys: {', '.join(kids) or f'its own, {data_dir / KEY_FILE}'}"
    for receiver in config.alerts.effective_receivers:
        where = f", {masked_url(receiver.url)}" if isinstance(receiver, PostingSettings) else ""
        yield f"receiver {receiver.name}: {receiver.type}{where}"
    for index, route in enumerate(config.alerts.effective_routes):
        environments, tenants = (", ".join(globs) for globs in (route.environments, route.tenants))
        what = f"{', '.join(route.events)} of environments {environments} and tenants {tenants}"
        yield f"route {index}: {what}, to {', '.join(route.receivers)}"
    if config.watchdog.target:
        yield f"watchdog: {masked_url(config.watchdog.target)}"
