"""retrain: one TOML becomes one finished, tracked, comparable, repeatable RLVR run."""

__version__ = "0.1.0"
