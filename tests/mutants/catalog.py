"""All wrong changes, by the part of the product that they are made in."""

from collections.abc import Mapping
from typing import Final

from tests.mutants import alert_store, auth, configuration, core, delivery, groups, health, http, intake, store
from tests.mutants.mutant import Mutant

AREAS: Final[Mapping[str, tuple[Mutant, ...]]] = {
    "core": core.MUTANTS,
    "store": store.MUTANTS,
    "intake": intake.MUTANTS,
    "http": http.MUTANTS,
    "auth": auth.MUTANTS,
    "configuration": configuration.MUTANTS,
    "groups": groups.MUTANTS,
    "delivery": delivery.MUTANTS,
    "alert_store": alert_store.MUTANTS,
    "health": health.MUTANTS,
}
MUTANTS: Final[tuple[Mutant, ...]] = tuple(mutant for area in AREAS.values() for mutant in area)
