"""Requests to the published service, and what it answered."""

import json
from pathlib import Path
from typing import Any, Final

VECTORS: Final[list[dict[str, Any]]] = json.loads(Path(__file__).with_name("contract_vectors.json").read_text())
