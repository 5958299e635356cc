"""What happens around a step, the same for every backend: evaluate, write the line, judge it, decide what to save.

metrics of a step ──held-out score when due──▶ evaluations/, metrics.jsonl ──▶ health ──▶ StepDone
                                 └─ best so far ──▶ adapter-best/
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from retrain import checkpoint
from retrain.errors import Interrupted, RunError
from retrain.events import CheckpointSaved, Diagnosed, StepDone
from retrain.health import Health
from retrain.store import read_metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from retrain.evaluate import Best, Evaluator
    from retrain.types import Job, Store


class Bookkeeper:
    """Keeps a run's record while a backend trains it.

    stop: why the run must end after this step, by health.on_problem = "stop"; None: it goes on
    """

    def __init__(self, job: Job, store: Store, evaluator: Evaluator, publish_best: Callable[[Best], None]) -> None:
        """Go on from what is in the run directory.

        publish_best: writes the weights as they are to RUN/adapter-best
        """
        self.job, self.store, self.evaluator, self._publish_best = job, store, evaluator, publish_best
        self.health = Health(job.config)
        self.health.replay(read_metrics(store.dir))
        self.stop: RunError | None = None
        self._mended: list[dict[str, Any]] = []  # problems that are no rule of health: out of memory
        self._last_save = time.monotonic()

    def before_first_step(self) -> None:
        """Evaluate the model that training starts from, where a held-out score is wanted."""
        if metrics := self._evaluate(0):
            self.store.append_metrics(0, metrics)

    def finish_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the line of a step, `step` steps being done, with its held-out score when that is due.

        Raises:
            Interrupted: while evaluating. Nothing is written; calling it again with the same metrics does it all.
            RunError: a value is not finite.
        """
        before = self.evaluator.state_dict()
        self.evaluator.observe(metrics)
        try:
            held_out = self._evaluate(step)
        except Interrupted:
            self.evaluator.load_state_dict(before)
            raise
        line = {**metrics, **held_out}
        self.store.append_metrics(step, line)
        self._judge({"step": step, **line})
        self.job.emit(StepDone(step=step, max_steps=self.job.config.training.max_steps, metrics=line))

    def _evaluate(self, step: int) -> dict[str, float]:
        """Return the held-out score where it is due, and that of the test split after the last step."""
        before, metrics = self.evaluator.best, dict[str, float]()
        if self.evaluator.due(step):
            with self.job.signals.allowed():
                metrics |= self.evaluator(step)
            self._keep_answers("eval", step)
        if step == self.job.config.training.max_steps and self.job.config.eval.final_test:
            with self.job.signals.allowed():
                metrics |= self.evaluator.test(step)
            self._keep_answers("test", step)
        best = self.evaluator.best
        if best is not None and best != before:
            if self.job.config.eval.keep_best and step > 0:  # before the first step there is nothing of ours to keep
                self._publish_best(best)
            self.store.update(best={"step": best.step, "score": best.score})
        return metrics

    def _keep_answers(self, part: str, step: int) -> None:
        held_out, answers = self.job.held_out, self.evaluator.answers.pop(part, None)
        if held_out is not None and answers is not None:
            tasks = held_out.tasks if part == "eval" else held_out.test
            self.store.write_evaluation(part, step, tasks, answers)

    def _judge(self, line: Mapping[str, float]) -> None:
        """Hold a line to the rules of health: say what is newly broken, and stop where that is wanted."""
        broken = self.health.observe(line)
        self._write_problems()
        for found in broken:
            self.job.emit(found)
        if broken and self.job.config.health.on_problem == "stop":
            first = broken[0]
            self.stop = RunError(f"{first.message} (health.{first.rule} at step {first.step})", first.hint)

    def _write_problems(self) -> None:
        problems = [*self._mended, *self.health.problems]
        if problems != self.store.record.problems:
            self.store.update(problems=problems)

    def diagnose(self, found: Diagnosed) -> None:
        """Record something that was wrong and has been mended."""
        self._mended.append({**vars(found), "evidence": dict(found.evidence), "until": found.step})
        self._write_problems()
        self.job.emit(found)

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def wants_save(self) -> bool:
        """Tell whether this step is saved although `save_every` does not ask for it."""
        minutes = self.job.config.training.save_minutes
        late = minutes > 0 and time.monotonic() - self._last_save >= 60 * minutes
        asked = self.job.signals.wants_save()
        return asked or late or self.stop is not None

    def saved(self, folder: Path) -> None:
        """Delete the oldest checkpoints now that a new one is on disk; the best step's stays."""
        self._last_save = time.monotonic()
        trouble = checkpoint.verify(folder)
        if trouble:
            raise RunError(
                f"the checkpoint {folder} was written, but {trouble}: the disk does not keep what it is given"
            )
        self.store.update()  # steps done
        best = self.evaluator.best
        checkpoint.prune(folder.parent, self.job.config.training.keep_checkpoints, spare=best.step if best else None)
        self.job.emit(CheckpointSaved(path=folder))

    def state_dict(self) -> dict[str, Any]:
        return {"evaluator": self.evaluator.state_dict(), "mended": list(self._mended)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.evaluator.load_state_dict(state["evaluator"])
        self._mended = list(state["mended"])
        self._write_problems()
