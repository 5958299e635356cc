"""Hand all orders of a folder to a launcher of Hydra's, in a process of its own.

    python -P -m retrain.campaign.hydra_launch FOLDER PARENT_PID

Hydra's singletons, the launcher's worker pools and what they do to logging stay in here. FOLDER/launch.yaml is Hydra's
config; FOLDER/error.txt says why the launcher gave up, if it did.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from retrain.campaign.hydra_job import ORDERS, run_order

ERROR = "error.txt"
PARENT_SECONDS = 1.0  # between two looks at whether the campaign's process lives
STOP_SECONDS = 45.0  # for the jobs, which look for themselves, to save their last step when it is gone


def main(folder: Path, parent: int) -> int:
    """Launch, wait for the launcher's return, and return the exit code."""
    threading.Thread(target=end_with, args=(parent,), name="parent", daemon=True).start()
    try:
        launch(folder)
    except Exception as error:  # noqa: BLE001  launchers raise anything; it is told to whoever waits for the runs
        traceback.print_exc()
        first = str(error).strip().splitlines() or [""]
        (folder / ERROR).write_text(f"{type(error).__name__}: {first[0]}".rstrip(": "), encoding="utf-8")
        return 1
    return 0


def end_with(parent: int) -> None:
    """End this process and its workers when its parent is gone, after they had the time to end by themselves.

    A launcher that is killed at once would leave workers that wait for it: those of joblib do for five minutes.
    """
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    time.sleep(STOP_SECONDS)
    os.killpg(0, signal.SIGKILL)


def launch(folder: Path) -> None:
    """Compose FOLDER/launch.yaml and launch one job for each order."""
    from hydra import version
    from hydra._internal.callbacks import Callbacks
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext, RunMode

    version.setbase("1.3")
    hydra = Hydra.create_main_hydra2("retrain", create_config_search_path(str(folder)))
    config = hydra.compose_config(
        config_name="launch",
        overrides=[],
        run_mode=RunMode.MULTIRUN,
        from_shell=False,
        with_log_configuration=False,
    )
    HydraConfig.instance().set_config(config)
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=run_order, config=config)
    number = len(json.loads((folder / ORDERS).read_text(encoding="utf-8"))["orders"])
    launcher.launch([[f"order={index}"] for index in range(number)], initial_job_idx=0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
