"""A second, plain copy of the policy for generation, with the LoRA adapter merged in.

Adapter matrix products are dear when one token is computed at a time. The shadow holds W' = W + s·B·A for every adapted
layer and shares everything else with the policy, so it costs the memory of the adapted layers. Trained weights are
read, never written: merging in place and taking it back out loses bits of the base at every step.
"""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedModel


def unmergeable(policy: nn.Module) -> str:
    """Say why there can be no shadow of this policy, or nothing."""
    if not isinstance(policy, PeftModel):
        return "it has no LoRA adapter"
    for name, module in policy.get_base_model().named_modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        if not isinstance(module, LoraLayer) or type(module.get_base_layer()) is not nn.Linear:
            return f"{name} is not a plain linear layer"
        if len(module.active_adapters) != 1 or module.merged or module.disable_adapters:
            return f"{name} does not have exactly one active, unmerged adapter"
        adapter = module.active_adapters[0]
        if adapter in module.lora_variant or module.lora_bias[adapter]:
            return f"{name} has an adapter that is more than scale·B·A, such as DoRA"
    return ""


def shadow_bytes(policy: nn.Module) -> int:
    """Return the memory that a shadow takes beside the policy."""
    return tensor_bytes(_base(module).weight for module in policy.modules() if isinstance(module, LoraLayer))


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Return the memory of some tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def memory_bytes(device: torch.device) -> int:
    """Return all the memory that the device has, used or not: what is free differs from run to run."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _base(layer: LoraLayer) -> nn.Linear:
    return cast("nn.Linear", layer.get_base_layer())


class MergedShadow:
    """The merged copy (`model`), as it was at the last `refresh`.

    Modules are copied, tensors are not, except the weights of adapted layers. What was put on single modules from
    outside (a replaced `forward`, hooks) belongs to training and stays behind.
    """

    def __init__(self, policy: PeftModel) -> None:
        """Copy and merge. The policy must be one that `unmergeable` has nothing against."""
        self._pairs: list[tuple[LoraLayer, nn.Linear]] = []
        self._twins: dict[int, nn.Module] = {}
        self.model: PreTrainedModel = self._twin(policy.get_base_model())
        self.refresh()

    def _twin(self, module: nn.Module) -> Any:
        """Copy a module and everything below it; a module that appears twice stays one."""
        if id(module) in self._twins:
            return self._twins[id(module)]
        twin: Any = copy.copy(_base(module) if isinstance(module, LoraLayer) else module)
        self._twins[id(module)] = twin
        own = twin.__dict__
        own.pop("forward", None)
        own.update(training=False, _parameters=dict(own["_parameters"]), _buffers=dict(own["_buffers"]))
        for hooks in [name for name in own if name.endswith("_hooks") and isinstance(own[name], dict)]:
            own[hooks] = type(own[hooks])()
        if isinstance(module, LoraLayer):
            twin.weight = nn.Parameter(torch.empty_like(twin.weight), requires_grad=False)
            self._pairs.append((module, twin))
        own["_modules"] = {
            name: None if child is None else self._twin(child) for name, child in own["_modules"].items()
        }
        return twin

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the adapter as it is now: W' = W + s·B·A, computed in the adapter's precision, rounded once."""
        for layer, plain in self._pairs:
            (adapter,) = layer.active_adapters
            a = cast("torch.Tensor", layer.lora_A[adapter].weight)
            b = cast("torch.Tensor", layer.lora_B[adapter].weight)
            weight = _base(layer).weight
            if a.dtype == weight.dtype:
                torch.addmm(weight, b, a, alpha=layer.scaling[adapter], out=plain.weight)
            else:
                plain.weight.copy_(torch.addmm(weight.to(a.dtype), b, a, alpha=layer.scaling[adapter]))
