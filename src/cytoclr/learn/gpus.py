"""Which GPUs torch sees, and why training will take one or not."""

from typing import Any

import torch

from cytoclr.learn.embed import choose_device

__all__ = ["describe_devices"]


def describe_devices() -> dict[str, Any]:
    """Tell what ``device: auto`` stands for here (asked of the function that training asks), why, and the GPUs."""
    chosen = choose_device("auto")
    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    if chosen.type == "cuda":
        why = f"torch {torch.__version__} sees {len(gpus)} GPU{'s' * (len(gpus) > 1)}, the first is {gpus[0].name}"
    elif torch.version.cuda is None and torch.version.hip is None:
        why = f"torch {torch.__version__} is built for the CPU only; where there is a GPU, install torch for CUDA"
    else:
        why = f"torch {torch.__version__} is built for GPUs, but its driver shows none here"
    return {
        "device": chosen.type,
        "why": why,
        "gpus": [{"name": gpu.name, "memory_gb": round(gpu.total_memory / 1e9, 1)} for gpu in gpus],
    }
