"""From a TOML and a command line to a typed config, with the origin of every value.

`schema` declares the keys; `toml`, `layers`, `arguments` read what the user wrote; `compose` merges it through Hydra;
`check` holds every rule between keys. Hydra is imported only when all files and arguments are sound.
"""

from retrain.config.compose import Composed, compose
from retrain.config.keys import Key
from retrain.config.origins import Origin
from retrain.config.schema import KEYS, SECTIONS, RunConfig
from retrain.config.secrets import mask

__all__ = ["KEYS", "SECTIONS", "Composed", "Key", "Origin", "RunConfig", "compose", "mask"]
