"""The problems of a config and what answers to them are worth: lengths, repetitions, rewards of known answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrain.doctor.config import max_positions, prompt_lengths
from retrain.doctor.finding import Found, fail, of_problem, ok, skipped, warn
from retrain.doctor.subject import known
from retrain.types import CORRECT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain.doctor.subject import Subject
    from retrain.types import Reward, Score, Task

SCORED = 128  # problems whose known answers are scored, spread over all
GOLD_LEAST, SHUFFLED_MOST = 0.95, 0.05  # shares that count as correct
FEW = 16  # problems; of fewer, every batch of the default size repeats some


def problems(subject: Subject) -> Found:
    """Load the problems of training, and show the first."""
    loaded = subject.load_data()
    count, first = len(loaded.tasks), loaded.tasks[0]
    asked = first.prompt[-1]["content"].strip().splitlines()
    said = f"{count:,} to train on, {len(loaded.held_out):,} held out; the first: {short(asked[0] if asked else '')}"
    said += f" → {short(first.answer)}"
    batch = subject.config.training.batch_size
    if count < max(FEW, batch):
        fix = "more problems: a policy learns few of them by heart"
        return warn(f"{said}; a step takes {batch}", fix)
    return ok(said)


def short(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def lengths(subject: Subject) -> Found:
    """Measure prompts in tokens: with a completion at its longest they must stay within the model's positions."""
    tokens, limit = prompt_lengths(subject), max_positions(subject)
    from retrain import evaluate
    from retrain.run import too_long

    longest = subject.config.training.max_tokens
    said = f"the longest prompt has {max(tokens)} tokens"
    if problem := too_long(max(tokens), longest, limit):
        return of_problem(problem)
    held_out = known("the held-out part is not known", subject.prepare_held_out)
    if held_out is not None:
        evaluate.check_lengths(held_out, subject.tokenizer, limit)
    room = f", of {limit:,} that the model was made for" if limit else ""
    return ok(f"{said}, completions at most {longest:,}{room}")


def repetitions(subject: Subject) -> Found:
    """Count problems that are asked more than once, and answers that contradict each other."""
    tasks = subject.data.tasks
    from retrain.data.held_out import question_key

    answers: dict[str, set[str]] = {}
    for task in tasks:
        answers.setdefault(question_key(task), set()).add(task.answer.strip())
    again, contradicted = len(tasks) - len(answers), sum(len(found) > 1 for found in answers.values())
    empty = sum(not task.answer.strip() for task in tasks)
    said = f"{again} repeat another problem, {contradicted} have several answers, {empty} have none"
    if contradicted or empty:
        return warn(said, "correct the data: what has no one answer cannot be learnt")
    if again > len(tasks) // 100:
        return warn(said, "drop them, if they should not count more than others")
    return ok(said)


def reward(subject: Subject) -> Found:
    """Score the reference answers, which must count as correct, and the answers of other problems, which must not."""
    made = subject.make_reward()
    name = subject.config.reward.type or subject.data.reward
    return known_answers(name, made, sample(subject.data.tasks))


def eval_reward(subject: Subject) -> Found:
    """Do the same with the reward of the held-out score, where it is another."""
    held_out = subject.prepare_held_out()
    if held_out is None:
        return skipped("nothing is held out")
    if held_out.reward is subject.reward:
        return ok("that of training")
    return known_answers(subject.config.eval.reward, held_out.reward, sample(held_out.tasks or held_out.test))


def sample(tasks: Sequence[Task]) -> Sequence[Task]:
    """Return some problems, spread evenly."""
    step = max(1, len(tasks) // SCORED)
    return tasks[::step][:SCORED]


def known_answers(name: str, reward: Reward, tasks: Sequence[Task]) -> Found:
    """Score gold and shuffled answers, as a completion that ends with the answer in a box."""
    gold = reward.score([boxed(task.answer) for task in tasks], tasks)
    others = shuffled(tasks)
    wrong = reward.score([boxed(answer) for _, answer in others], [task for task, _ in others]) if others else []
    right_share, wrong_share, errors = share(gold), share(wrong), [score.error for score in gold if score.error]
    said = f"{name}: {right_share:.0%} of {len(gold)} reference answers are correct"
    said += f", and {wrong_share:.0%} of other problems' answers" if others else "; all answers are the same one"
    if errors:
        said += f"; {len(errors)} cannot be scored: {short(errors[0], 100)}"
    if name == "random":
        return ok(f"{said}: a coin, the control that must not learn")
    if len(errors) == len(gold):
        return fail(said, "correct the reward: a run stops when it fails on everything")
    if right_share < GOLD_LEAST:
        return warn(
            said, "the answers' form, or the reward: what is right must score above 0.5 (retrain man advantages)"
        )
    if wrong_share > SHUFFLED_MOST:
        return warn(said, "a stricter reward: this one pays for wrong answers")
    if errors:
        return warn(said, "correct these answers: such problems are left out of training")
    return ok(said)


def boxed(answer: str) -> str:
    return f"The answer is \\boxed{{{answer}}}."


def share(scores: Sequence[Score]) -> float:
    return sum(s.value is not None and s.value > CORRECT for s in scores) / len(scores) if scores else 0.0


def shuffled(tasks: Sequence[Task]) -> list[tuple[Task, str]]:
    """Give each problem the answer of the next one whose answer is another; nothing where all are the same."""
    pairs = []
    for index, task in enumerate(tasks):
        others = (*tasks[index + 1 :], *tasks[:index])
        other = next((o.answer for o in others if o.answer.strip() != task.answer.strip()), None)
        if other is not None:
            pairs.append((task, other))
    return pairs
