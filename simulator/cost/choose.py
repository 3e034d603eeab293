"""The cost model of a study: the roofline by name, or a file with measured or recorded times."""

from pathlib import Path
from typing import Final

from ..errors import ConfigurationError
from ..hardware.deployment import Deployment
from .protocol import StepCost
from .recorded import read_recorded
from .roofline import roofline
from .table import read_table

ROOFLINE: Final = "roofline"


def step_cost(cost: str, placed: Deployment, replicas: int, max_running: int, max_step_tokens: int) -> StepCost:
    """The model that `cost` names. A file whose header has `device` is a table, others are recorded times.

    Raises ConfigurationError if there is no such file, or it does not fit the deployment.
    """
    if cost == ROOFLINE:
        return roofline(placed)
    path = Path(cost)
    try:
        if path.suffix == ".parquet" or "device" in _header(path):
            table = read_table(path, placed)
            table.check_range(max_running, max_step_tokens)
            return table
        if replicas != 1:
            raise ConfigurationError(f"replicas is {replicas}; recorded times ({path.name}) are those of one replica")
        return read_recorded(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"cost is {cost!r}, which is neither {ROOFLINE!r} nor a file that can be read: {error}"
        ) from error


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as lines:
        return lines.readline().strip().split(",")
