"""What results of kernels depend on: the device and the versions of what runs them."""

from __future__ import annotations

import subprocess
from importlib.util import find_spec

import torch

from ..device import capability_of


def machine(device: torch.device) -> dict[str, str]:
    """The device and the versions that a result depends on."""
    found = {"device": "CPU", "capability": str(capability_of(device)), "torch": torch.__version__}
    if find_spec("triton") is not None:
        import triton

        found["triton"] = triton.__version__
    if device.type == "cuda":
        found["device"] = torch.cuda.get_device_name(device)
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
        try:
            found["driver"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError) as error:
            found["driver"] = f"unknown ({error})"
    return found
