"""Write word problems of several steps, with names, units and worked solutions: one JSON object a line.

    python examples/word_problems.py 240 problems.jsonl [SEED]

Columns: question, answer (a number), solution (worked out), kind. `examples/word_problems.toml` trains on the file.
"""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

NAMES = ("Ada", "Ben", "Chen", "Dina", "Emil", "Fatou", "Goran", "Hana", "Ilya", "Juana", "Kofi", "Lena")
FRUIT = ("apples", "pears", "plums", "oranges", "figs")

Problem = tuple[str, str, int]  # question, worked solution, answer


def shopping(rng: random.Random) -> Problem:
    name, fruit = rng.choice(NAMES), rng.choice(FRUIT)
    bags, each, eaten = rng.randint(2, 9), rng.randint(3, 12), rng.randint(1, 6)
    total = bags * each
    question = f"{name} buys {bags} bags of {each} {fruit} and eats {eaten}. How many {fruit} are left?"
    return question, f"{bags} × {each} = {total}, then {total} − {eaten} = {total - eaten}.", total - eaten


def travel(rng: random.Random) -> Problem:
    name, speed, hours, walked = rng.choice(NAMES), rng.randint(4, 20) * 5, rng.randint(2, 6), rng.randint(1, 9)
    driven = speed * hours
    question = f"{name} drives {hours} hours at {speed} km/h, then walks {walked} km. How many kilometres in all?"
    return (
        question,
        f"{hours} h × {speed} km/h = {driven} km, and {driven} + {walked} = {driven + walked} km.",
        driven + walked,
    )


def wages(rng: random.Random) -> Problem:
    first, second = rng.sample(NAMES, 2)
    rate, hours, extra = rng.randint(9, 25), rng.randint(3, 8), rng.randint(2, 15)
    earned = rate * hours
    question = (
        f"{first} earns {rate} euros an hour and works {hours} hours. {second} earns {extra} euros more than {first} "
        "that day. How many euros do they earn together?"
    )
    both = 2 * earned + extra
    return (
        question,
        f"{first}: {rate} × {hours} = {earned}. {second}: {earned} + {extra} = {earned + extra}. Together {both}.",
        both,
    )


def sharing(rng: random.Random) -> Problem:
    name, children, each, spare = rng.choice(NAMES), rng.randint(3, 9), rng.randint(4, 12), rng.randint(1, 2)
    total = children * each + spare
    question = (
        f"{name} has {total} sweets, keeps {spare} and shares the rest equally among {children} children. "
        "How many sweets does each child get?"
    )
    return question, f"{total} − {spare} = {total - spare}, and {total - spare} ÷ {children} = {each}.", each


def filling(rng: random.Random) -> Problem:
    name, inflow, leak, minutes, start = (
        rng.choice(NAMES),
        rng.randint(8, 20),
        rng.randint(1, 5),
        rng.randint(5, 30),
        rng.randint(0, 40),
    )
    net = inflow - leak
    question = (
        f"{name}'s tank holds {start} litres. {inflow} litres flow in each minute and {leak} leak out. "
        f"How many litres does it hold after {minutes} minutes?"
    )
    final = start + net * minutes
    return question, f"{inflow} − {leak} = {net} litres a minute; {start} + {minutes} × {net} = {final}.", final


KINDS: tuple[Callable[[random.Random], Problem], ...] = (shopping, travel, wages, sharing, filling)


def write(number: int, path: Path, seed: int = 0) -> None:
    """Write `number` different problems, kinds in turn."""
    rng, seen = random.Random(seed), set()
    with path.open("w", encoding="utf-8") as handle:
        while len(seen) < number:
            kind = KINDS[len(seen) % len(KINDS)]
            question, solution, answer = kind(rng)
            if question not in seen:
                seen.add(question)
                row = {"question": question, "answer": answer, "solution": solution, "kind": kind.__name__}
                handle.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write(int(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
