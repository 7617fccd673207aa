"""The configuration file: where it is, what may stand in it, and what it makes.

Import from here: :func:`load_config`, :func:`locate_config`, :func:`choose_state`, :func:`open_stores`
and what they return and raise.
"""

from smartfallback.config.loading import LoadedConfig, load_config
from smartfallback.config.locate import default_config_path, locate_config
from smartfallback.config.mistakes import ConfigError, ConfigWarning, Mistake
from smartfallback.config.stores import RedisUrlError, StateSettings, Stores, choose_state, open_stores

__all__ = [
    "ConfigError",
    "ConfigWarning",
    "LoadedConfig",
    "Mistake",
    "RedisUrlError",
    "StateSettings",
    "Stores",
    "choose_state",
    "default_config_path",
    "load_config",
    "locate_config",
    "open_stores",
]
