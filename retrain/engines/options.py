"""What each engine says of itself. Imports no tensor library."""

from retrain.capabilities import EngineCapabilities

PYTORCH = EngineCapabilities(
    modules=("torch", "transformers", "peft", "accelerate"),
    extra="local",
    devices=("cpu", "cuda"),
    gives=frozenset({"entropies"}),
)
