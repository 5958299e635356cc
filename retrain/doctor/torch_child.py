"""A program: say what torch is and which devices it sees, as one line of JSON.

`retrain.doctor.machine` runs it as a process of its own, by its path, so that a broken install can neither end nor hang
the one that asks.
"""

import json

import torch


def driver() -> str:
    """Return the newest CUDA that the driver knows; empty where there is no driver."""
    try:
        number = vars(torch._C)["_cuda_getDriverVersion"]()  # noqa: SLF001  torch has no other name for it
    except (KeyError, RuntimeError):  # a build without CUDA, or a driver that does not answer
        return ""
    return f"{number // 1000}.{number % 1000 // 10}" if number else ""


def gpu(index: int) -> dict[str, object]:
    """Return what one GPU is and has."""
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    major, minor = torch.cuda.get_device_capability(index)
    return {"name": properties.name, "capability": f"{major}.{minor}", "free": free, "total": total}


def trouble() -> str:
    """Return why CUDA cannot be used, in torch's own words."""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        return str(error).strip().partition("\n")[0]
    return ""


def report() -> dict[str, object]:
    available = torch.cuda.is_available()
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda or "",
        "hip": getattr(torch.version, "hip", None) or "",
        "driver": driver(),
        "built_for": torch.cuda.get_arch_list() if available else [],
        "gpus": [gpu(index) for index in range(torch.cuda.device_count())] if available else [],
        "trouble": "" if available else trouble(),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    print(json.dumps(report()))  # noqa: T201  to the process that asks
