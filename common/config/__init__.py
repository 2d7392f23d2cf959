"""Configuration: one TOML file per process, overridable by ``DIMEE_SECTION__KEY``."""
