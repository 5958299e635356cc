"""A backend without a model and without torch: a plugin that writes what training writes, and fails as it is told.

    [backend]
    backend = "toy_backend:Toy"
    options = { fault = "raise" }

It starts a process of its own, which would sleep on for ever, as plugins do. With TOY_HEALTHY in the environment the
cause of every fault is gone; TOY_SECONDS is how long a step takes.
"""

import math
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from retrain import checkpoint
from retrain.capabilities import MONEY, Capabilities, Prices, Usage
from retrain.errors import RunError
from retrain.events import CheckpointSaved, Phase, StepDone
from retrain.types import RunResult

FAULT_STEP = 3
PROMPT, SAMPLED, TRAINED = 100.0, 1000.0, 1100.0  # tokens of a step


@dataclass(kw_only=True)
class Options:
    fault: str = ""  # raise, refuse, exit, kill, hang, memory
    seconds: float = 0.0  # a step
    price: float = 0.0  # of a million tokens of any kind
    peak: float = 0.0  # the best learning rate; 0: the higher the better


def prices(config):
    options = Options(**config.backend.options)
    each = options.price
    return Prices(currency="USD", prompt=each, sampled=each, trained=each) if each else None


class Toy:
    capabilities = Capabilities(parts=frozenset(), options=Options, prices=prices)
    num_trainable = 0
    max_positions = None

    def __init__(self, options):
        self.options = options

    @classmethod
    def load(cls, config, tokenizer):
        return cls(Options(**config.backend.options))

    def train(self, job, store, *, resume_from):
        alone = getattr(sys.modules["__main__"].__spec__, "name", "") == "retrain.campaign.child"
        assert not alone or "torch" not in sys.modules
        sleeper = subprocess.Popen(["sleep", "3600"])
        first = checkpoint.step_of(resume_from) if resume_from else 0
        for step in range(first + 1, job.config.training.max_steps + 1):
            job.emit(Phase(name="train"))
            with job.signals.allowed():
                time.sleep(float(os.environ.get("TOY_SECONDS") or self.options.seconds))
            if step == FAULT_STEP and "TOY_HEALTHY" not in os.environ:
                fail(self.options.fault)
            self.finish(job, store, step)
        sleeper.kill()
        (store.dir / "adapter").mkdir(exist_ok=True)
        return RunResult(dir=store.dir, steps=job.config.training.max_steps, artifact=store.dir / "adapter")

    def finish(self, job, store, step):
        """Write the line of a step and its checkpoint."""
        training, peak = job.config.training, self.options.peak
        score = min(1.0, training.lr * 1e4 * step / 10)
        if peak:
            score = -abs(math.log10(training.lr / peak)) + training.seed / 100
        metrics = {"reward/mean": score, "eval/score": score, "tokens/generated": SAMPLED, "time/total": 0.1}
        if job.prices:
            metrics[MONEY] = job.prices.of(Usage(prompt=PROMPT, sampled=SAMPLED, trained=TRAINED))
        store.append_metrics(step, metrics)
        job.emit(StepDone(step=step, max_steps=job.config.training.max_steps, metrics=metrics))
        if job.config.training.save_every and step % job.config.training.save_every == 0:
            with checkpoint.writing(store.dir / "checkpoints" / f"step-{step}", step=step) as folder:
                (folder / "state.json").write_text(f'{{"step": {step}}}')
            store.update()
            job.emit(CheckpointSaved(path=store.dir / "checkpoints" / f"step-{step}"))


def fail(fault):
    if fault == "raise":
        raise ValueError("the cause")
    if fault == "refuse":
        raise RunError("the loss is not finite")
    if fault == "exit":
        sys.exit(7)
    if fault == "kill":
        time.sleep(0.6)  # the heartbeat tells where this is a moment later
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "hang":
        while True:
            time.sleep(3600)
    if fault == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (256 << 20, 256 << 20))
        bytearray(1 << 30)
