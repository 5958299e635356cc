"""Every command, once: its usage, its line in the help, its own help, and the module that does it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command.

    module:   the file of `retrain.cli` whose ``main(arguments) -> int`` runs it
    takes:    what its arguments without a name are, in order, the last one again and again; kinds as for flags
    flags:    its own flags → the kind of value that each takes: file, folder, number, text, or what completion lists
              (toml, run, topic, template, metric, key, …); "": a switch
    composes: whether it also takes overrides and the flags of a config
    """

    usage: str
    summary: str
    details: str
    module: str
    takes: tuple[str, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict[str, str])
    composes: bool = False


RUN_REFERENCES = """\
RUN is a run directory, or short for one under outputs/:
  mini          the latest run of mini.toml
  mini@-2       the one before that
  2025-06-01    any beginning that fits one run only
  latest        the latest run of all"""

COMMANDS: dict[str, Command] = {
    "train": Command(
        usage="retrain CONFIG.toml [OVERRIDE …] [--FLAG VALUE …]",
        summary="train what the TOML describes",
        details="""\
OVERRIDE   training.lr=1e-5     a value of the config, by its dotted name
           algorithm=maxrl      a group file from conf/: the package's, or yours beside the TOML
--FLAG     --lr 1e-5            the last part of any [training], [algorithm] or [logging] key
           --model ID           also --lora-rank, --backend, --devices, --engine, --adapter-path
           --optimizer-eps 1e-6 any key, with its section in front
           --config-dir DIR     one more folder of group files
           --resume RUN|auto    go on with that run; auto: the newest unfinished one of this TOML, else a fresh start
What is on the command line beats what is in a file. `retrain explain CONFIG.toml …` shows the outcome and starts
nothing.

The run directory is the only line on stdout; progress goes to stderr. Ctrl-C saves the last finished step and ends the
run; `retrain resume RUN` goes on with it.

Many runs: a TOML with [campaign], or --multirun (-m) and overrides that sweep: algorithm=grpo,maxrl training.seed=1,2
           condition=LABEL      only this condition; campaign.max_workers=4 sets a key of [campaign]
           --extend DIR         add what is new in the TOML to that campaign; --retry-failed: failed runs begin anew
           --yes                do not ask before many runs start
Exit code 3: it has ended, and not all of its runs are done. More: retrain man campaigns""",
        module="train",
        takes=("toml",),
        flags={"--extend": "run", "--retry-failed": "", "--yes": "", "-y": ""},
        composes=True,
    ),
    "explain": Command(
        usage="retrain explain [CONFIG.toml] [OVERRIDE …] [--FLAG VALUE …] [--all] [--json]",
        summary="say what a config would do, and where each value comes from; start nothing",
        details="""\
Without CONFIG.toml: retrain.toml in this folder. Overrides and flags are those of a run.

--all     every key, not only those that differ from the defaults
--json    one JSON document on stdout: kind ("run" or "campaign"), config, sources, derived, cautions, problems, runs,
          of a campaign also campaign; errors as JSON on stderr

Of a TOML with [campaign], or with --multirun: how many runs, how much they generate, in which keys the conditions
differ, how long it takes where earlier runs on this machine tell, and the smallest difference that so many seeds
could detect. config is then what all runs have in common.""",
        module="explain",
        takes=("toml",),
        flags={"--all": "", "--json": ""},
        composes=True,
    ),
    "fetch": Command(
        usage="retrain fetch [CONFIG.toml] [OVERRIDE …] [--FLAG VALUE …] [--json]",
        summary="download what a run reads, for machines without network",
        details="""\
The model with its tokenizer, the adapter to start from, the data and that of [eval], into the caches that a run reads
(HF_HOME says where). Says of each whether it was there already, or how much was downloaded. What cannot be had is
listed at the end, and the exit code is 1. Afterwards the run works with HF_HUB_OFFLINE=1.

Without CONFIG.toml: retrain.toml in this folder. Overrides and flags are those of a run.

--json    one JSON document on stdout: items, each with kind, name, state ("local", "already there" or "downloaded"),
          bytes, place and note; errors as JSON on stderr""",
        module="fetch",
        takes=("toml",),
        flags={"--json": ""},
        composes=True,
    ),
    "init": Command(
        usage="retrain init [--template NAME] [--output FILE] [--list]",
        summary="write a commented TOML to start from",
        details="""\
--template NAME   demo: a tiny model, about a minute on any CPU (the default)
                  quickstart: a real model and your own problems, on one GPU
                  campaign: three conditions and four seeds of the tiny model, and a verdict
                  experiment: the same with a real model, a claim, a control and a budget
--output FILE     where to write it (default retrain.toml); an existing file is never overwritten
--list            show the templates and write nothing""",
        module="init",
        flags={"--template": "template", "--output": "file", "--list": ""},
    ),
    "init-plugin": Command(
        usage="retrain init-plugin --kind KIND --name NAME [--output DIR] [--with-test]",
        summary="write an algorithm, reward or data source of your own to start from",
        details="""\
--kind KIND    transform   one advantage per token, from what came before and the token's uncertainty
               baseline    rewards to one advantage per completion
               signal      the uncertainty of each token
               detector    which phrases of a completion are planning
               reward      what a completion is worth
               data        where problems come from
--name NAME    of the module: NAME.py; an existing file is never overwritten
--output DIR   where to write it (default: this folder)
--with-test    also write test_NAME.py, which passes as it is

Both work unchanged; what to put into the TOML is printed.""",
        module="init_plugin",
        flags={"--kind": "kind", "--name": "text", "--output": "folder", "--with-test": ""},
    ),
    "plugins": Command(
        usage="retrain plugins [CONFIG.toml] [--kind KIND] [--json]",
        summary="list every name that a config may choose, with its origin and options",
        details="""\
With CONFIG.toml: also the modules of your own that it names. Nothing is imported: they are read, not run.

--kind KIND   one family only: mode, baseline, transform, signal, detector, reward, data, engine or backend
--json        one JSON document on stdout: plugins, each with kind, name, origin ("built-in", "entry point" or
              "module"), where, target, summary and options (null: not known without importing it)""",
        module="plugins",
        takes=("toml",),
        flags={"--kind": "family", "--json": ""},
    ),
    "status": Command(
        usage="retrain status [RUN|CAMPAIGN|DIR …] [--watch] [--all] [--json]",
        summary="see what the runs and campaigns here are doing, and what to do about those in trouble",
        details=f"""\
Without arguments: the newest 20 campaigns and the newest 20 other runs under outputs/. DIR: those below that folder.
One RUN: more about it. One CAMPAIGN: its conditions and seeds as a table, with the curve of each run's reward.

--watch   show it again every 2 seconds until Ctrl-C; in a pipe, a line for each run that has moved on
--all     every run, not only the newest 20
--json    one JSON document on stdout: campaigns, and the runs that belong to none, newest first, all of them;
          errors as JSON on stderr

A run is running, done, failed or interrupted; stalled when it has made no progress for health.stall_timeout seconds;
interrupted too when its process is gone without a word (kill -9); damaged when run.json cannot be read. On another
machine the process cannot be looked for: there a run is also stalled when it has written nothing for three minutes.

A run in --json: directory, name, state, cause (likely cause of trouble; "": none), phase, phase_seconds, steps_done,
max_steps, reward, correct_rate (both of the last step), eval_score, eval_step (the last held-out score), best_score,
best_step, seconds_per_step, eta_seconds, started, ended (unix seconds), active_seconds (without the time that it lay
idle), exit_reason, problems (health rules that are broken now: rule, step, message, hint, evidence, until), stacks (a
file in directory), commands (what to type next). What is not known is null or "".

A campaign in --json: directory, name, kind ("campaign" or "multirun"), state, cause, metric, baseline, max_workers,
eta_seconds (of the whole), started, ended, active_seconds, conditions (labels, in order), seeds, counts (runs by
state), steps_done, max_steps (of all runs together), commands, and runs: the keys of a run, and label (its condition),
seed, attempts and metric_value (the last value of the campaign's metric). A run of a campaign may also be planned.

{RUN_REFERENCES}
CAMPAIGN likewise: abl is the latest campaign of abl.toml, and its runs are in its folder runs/.""",
        module="status",
        takes=("run",),
        flags={"--watch": "", "--all": "", "--json": ""},
    ),
    "compare": Command(
        usage="retrain compare CAMPAIGN | RUN|CAMPAIGN … [--metric M] [--by KEY] [--failures floor] [--html FILE] …",
        summary="say whether one condition is better than another, and how sure that is",
        details=f"""\
CAMPAIGN       its conditions against its baseline, and its report.html is written anew
RUN|CAMPAIGN   several: conditions are what differs in their configs, the first one is the baseline

--metric M        compare by another metric than the declared one (eval/score), at the planned last step
--by KEY          make conditions of this config key only; several: KEY,KEY
--failures floor  count failed runs with the lowest value there is, or 0 if that is lower; without it there is no
                  verdict where conditions lost runs unequally
--html FILE       write the report there; replaces FILE
--json            one JSON document on stdout: name, headline, metric, baseline, min_effect, failures, compared,
                  warnings, looks, conditions, problems, comparisons, secondary, runs; null: not known; errors as JSON
                 on stderr

A comparison in --json: label, baseline, seeds (common ones), difference, low, high (95 %, jointly, over seeds),
problems_low, problems_high (the same over seeds and problems), p, p_holm, improvement (chance to be ahead on a new
seed), improvement_low, improvement_high, verdict ("better", "worse", "equivalent", "cannot tell", "no verdict"), reason
(of no verdict), spread, detectable, detectable_low, detectable_high, seeds_needed, sentence. problems: count, left_out
(some run could not score them), reason (why there is no interval over problems). What they mean: retrain man compare

{RUN_REFERENCES}""",
        module="compare",
        takes=("run",),
        flags={"--metric": "metric", "--by": "key", "--failures": "floor", "--html": "file", "--json": ""},
    ),
    "resume": Command(
        usage="retrain resume RUN|CAMPAIGN [OVERRIDE …] [--FLAG VALUE …] [--retry-failed]",
        summary="go on with a run or a campaign that was interrupted or failed, in place",
        details=f"""\
Goes on from the newest whole checkpoint, with the config that the run was started with. Overrides and flags may change
what no step depends on: the length (--max-steps, also of a finished run), saving, logging and health.
`retrain CONFIG.toml --resume RUN` is the same with the TOML's values. More: retrain man resume

Of a CAMPAIGN every run that is not done is started: half-done ones from their checkpoints. --retry-failed lets failed
runs begin anew instead. It takes no overrides.

{RUN_REFERENCES}""",
        module="resume",
        takes=("run",),
        flags={"--retry-failed": ""},
        composes=True,
    ),
    "eval": Command(
        usage="retrain eval RUN|ADAPTER|MODEL [CONFIG.toml] [OVERRIDE …] [--FLAG VALUE …] [--test] [--json]",
        summary="score a finished run, an adapter or a base model on problems it was not trained on",
        details=f"""\
RUN       its final adapter, with its own config; the score is the last eval/score of its metrics.jsonl
ADAPTER   a folder with adapter_config.json, on the model that it names, or the one that CONFIG.toml names
MODEL     a folder, a hub id such as Qwen/Qwen3-0.6B, or builtin:tiny

CONFIG.toml and overrides say what to score on and how: the held-out part of [data], or the source of [eval]. A RUN,
and an ADAPTER inside one, need none; another ADAPTER and a MODEL need one of them: data=gsm8k, or CONFIG.toml.
The same config gives the same problems and random numbers, so that two scores can be compared. What was trained on
is counted, and refused when it is everything. A seed of -1 means the default one here.

--best            RUN's best adapter by held-out score, instead of the final one
--checkpoint N    RUN's checkpoint of step N
--test            the whole test split of data.source, instead of the held-out part
--eval-samples 8  more completions of each problem: gives pass@2, pass@4, pass@8
--eval-source S   other problems; also --eval-path FILE, --eval-name, --eval-split, and any other override of a run
--json            one JSON document on stdout: kind (run, adapter, model), weights, model, part, source, problems,
                  trained_on (null: not known), reward, samples, temperature, top_p, max_tokens, seed, score, score_se,
                  pass_at (k: value, se), training_reward (null: it is the reward), length_mean, truncated_rate,
                  unscorable; errors as JSON on stderr

{RUN_REFERENCES}""",
        module="eval",
        takes=("run", "toml"),
        flags={"--best": "", "--checkpoint": "number", "--test": "", "--json": ""},
        composes=True,
    ),
    "debug-batch": Command(
        usage="retrain debug-batch FILE [--devices TEXT] [--json]",
        summary="find what made a step's loss or gradient not finite",
        details="""\
FILE is RUN/debug/step-N.pt, which a run keeps when it stops for that reason. The same loss is computed again, with the
weights and the micro-batches of then, and once more for each completion alone. What is not finite is named: inputs,
weights, the module and the tokens of log-probabilities, the loss and gradient of completions, and of parameters.

--devices TEXT   where to compute it: cpu, gpu:0 (default: as the run's config says)
--json           one JSON document on stdout: file, step (steps done before), reason, device, dtype, first (inputs,
                 weights, log-probabilities, loss, gradient, or "": all is finite), to_blame (rows of the batch),
                 inputs, weights, module, logprobs, loss, grad_norm, rows, gradients; a number that is not finite is
                 text; errors as JSON on stderr""",
        module="debug_batch",
        takes=("file",),
        flags={"--devices": "text", "--json": ""},
    ),
    "man": Command(
        usage="retrain man [TOPIC]",
        summary="read the manual: what a config means, the maths of advantages",
        details="""\
Without TOPIC: the topics, a line each. On a terminal the text is laid out to its width, in a pipe it is Markdown.

--topic TOPIC   the same as TOPIC alone
--list-topics   the topics, a line each""",
        module="man",
        takes=("topic",),
        flags={"--topic": "topic", "--list-topics": ""},
    ),
    "rollouts": Command(
        usage="retrain rollouts RUN [--step N] [--best K] [--worst K] [--search TEXT] [--signal] [--html FILE] …",
        summary="see a run's completions, each token in the colour of its advantage",
        details=f"""\
--step N        default: the last step that is on disk
--best K        the K highest rewards of the step
--worst K       the K lowest
--search TEXT   only completions with TEXT in prompt or completion, in upper or lower case
--task ID       only this task's
--limit K       at most K; default 4 on a terminal, 64 in --html, all in --json
--signal        colour by uncertainty instead of advantage
--html FILE     one page with all of it to look at in a browser, offline; replaces FILE
--json          one JSON document on stdout: run, step, completions; errors as JSON on stderr

Without --best and --worst: the best and the worst of each group, beginning where a group's rewards differ most, then
the second best and second worst, and so on.

Green is a positive advantage, red a negative one, strong where it is near the step's largest. Planning tokens are
underlined. A character that is split over tokens is shown once, in the colour of its first token. In a pipe, and with
NO_COLOR, planning tokens are between « and » and a line gives every token's number.

A completion in --json: task_id, group, rollout, prompt, completion, answer, reward (null: unscorable), reward_parts,
error, finish_reason, policy_version, prompt_tokens, and one value a token: token_ids, logprobs, entropies, advantages,
uncertainty, planning (null: not on file).

{RUN_REFERENCES}""",
        module="rollouts",
        takes=("run",),
        flags={
            "--step": "number",
            "--best": "number",
            "--worst": "number",
            "--search": "text",
            "--task": "text",
            "--limit": "number",
            "--html": "file",
            "--signal": "",
            "--json": "",
        },
    ),
    "ui": Command(
        usage="retrain ui [RUN|CAMPAIGN] [--experiment NAME] [--port N]",
        summary="serve the tracker's pages: a run's, a campaign's by condition, or the charts of all runs",
        details=f"""\
Prints the address on stdout and serves it until Ctrl-C.

--experiment NAME   without RUN: the experiment whose charts are shown (default retrain)
--port N            default: a free one

{RUN_REFERENCES}""",
        module="ui",
        takes=("run",),
        flags={"--experiment": "text", "--port": "number"},
    ),
    "sync": Command(
        usage="retrain sync RUN|CAMPAIGN",
        summary="send to the tracker what it has missed of a run, or of a campaign and all its runs",
        details=RUN_REFERENCES,
        module="sync",
        takes=("run",),
    ),
}


def general_help() -> str:
    """Return what `retrain --help` prints."""
    width = max(len(name) for name in COMMANDS)
    others = "\n".join(f"  {name:<{width}}  {c.summary}" for name, c in COMMANDS.items() if name != "train")
    return f"""\
retrain: one TOML becomes one finished, tracked, repeatable reinforcement learning run

  {COMMANDS["train"].usage}
                             {COMMANDS["train"].summary}

Commands:
{others}

  retrain COMMAND --help     more about one; retrain train --help: about overrides and flags
  retrain --version

New here:
  retrain init               write retrain.toml, a run that takes about a minute on a CPU
  retrain retrain.toml       do it"""


def command_help(name: str) -> str:
    """Return what `retrain COMMAND --help` prints."""
    command = COMMANDS[name]
    return f"{command.usage}\n\n{command.summary[0].upper()}{command.summary[1:]}.\n\n{command.details}"
