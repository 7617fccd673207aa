"""The configuration file: where it is, what may stand in it, and what it makes.

Import from here: :func:`load_config`, :func:`locate_config` and what they return and raise.
"""

from smartfallback.config.loading import LoadedConfig, StateSettings, load_config
from smartfallback.config.locate import default_config_path, locate_config
from smartfallback.config.mistakes import ConfigError, ConfigWarning, Mistake

__all__ = [
    "ConfigError",
    "ConfigWarning",
    "LoadedConfig",
    "Mistake",
    "StateSettings",
    "default_config_path",
    "load_config",
    "locate_config",
]
