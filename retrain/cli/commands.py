"""Every command, once: its usage, its line in the help, its own help, and the module that does it.

What RUN stands for in a usage is said by `retrain.cli.help`, and what --json prints by the topic `json`.
"""

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
    flags:    its own flags → the kind of value that each takes: number, text, what `retrain.cli.listings` has a list
              for (file, toml, run, topic, …), a word itself, or several of these (``bash|zsh|fish``); "": a switch
    composes: whether it also takes overrides and the flags of a config
    sweeps:   whether it also takes what makes many runs of one config: --multirun, condition=, campaign.KEY=
    """

    usage: str
    summary: str
    module: str
    details: str = ""
    takes: tuple[str, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict[str, str])
    composes: bool = False
    sweeps: bool = False


FIELDS = "one JSON document on stdout, errors as JSON on stderr; fields: retrain man --topic json"

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
           --extend DIR         do what is new in the TOML, and what was interrupted, in that campaign
           --retry-failed       let failed runs of a campaign that goes on begin anew
           --yes                do not ask before many runs start
           hydra/sweeper=optuna search instead: training.lr='interval(1e-5,1e-3)' hydra.sweeper.n_trials=20
Exit code 3: it has ended, and not all of its runs are done. More: retrain man campaigns""",
        module="train",
        takes=("toml",),
        flags={"--extend": "campaign", "--retry-failed": "", "--yes": "", "-y": ""},
        composes=True,
        sweeps=True,
    ),
    "explain": Command(
        usage="retrain explain [CONFIG.toml|RUN] [OVERRIDE …] [--FLAG VALUE …] [--all] [--diff OTHER] [--json]",
        summary="say what a config would do, and where each value comes from; start nothing",
        details=f"""\
Without CONFIG.toml: retrain.toml in this folder. Overrides and flags are those of a run. RUN: the config that it was
started with, resolved.

--all          every key, not only those that differ from the defaults
--diff OTHER   only what differs from another TOML, or from the config of a run: key by key, both values and where they
               come from. Overrides are of CONFIG.toml
--json         {FIELDS}

Of a TOML with [campaign], or with --multirun: how many runs, how much they generate, in which keys the conditions
differ, how long it takes where earlier runs on this machine tell, and the smallest difference that so many seeds
could detect. The config is then what all runs have in common. Of a search: its space, sampler and aim.""",
        module="explain",
        takes=("toml",),
        flags={"--all": "", "--diff": "toml", "--json": ""},
        composes=True,
        sweeps=True,
    ),
    "fetch": Command(
        usage="retrain fetch [CONFIG.toml] [OVERRIDE …] [--FLAG VALUE …] [--json]",
        summary="download what a run reads, for machines without network",
        details=f"""\
The model with its tokenizer, the adapter to start from, the data and that of [eval], into the caches that a run reads
(HF_HOME says where). Says of each whether it was there already, or how much was downloaded. What cannot be had is
listed at the end, and the exit code is 1. Afterwards the run works with HF_HUB_OFFLINE=1.

Without CONFIG.toml: retrain.toml in this folder. Overrides and flags are those of a run.

--json    {FIELDS}""",
        module="fetch",
        takes=("toml",),
        flags={"--json": ""},
        composes=True,
    ),
    "init": Command(
        usage="retrain init [--template NAME] [--interactive] [--output FILE] [--list [--json]]",
        summary="write a commented TOML to start from",
        details=f"""\
--template NAME   demo: a tiny model, about a minute on any CPU (the default)
                  quickstart: a real model and your own problems, on one GPU
                  campaign: three conditions and four seeds of the tiny model, and a verdict
                  experiment: the same with a real model, a claim, a control and a budget
--interactive     ask instead: model, data, reward, budget, device, tracking; each answer is checked at once, and the
                  config and what it would cost are shown before anything is written. Needs a terminal
--output FILE     where to write it (default retrain.toml); an existing file is never overwritten
--list            show the templates and write nothing
--json            with --list: {FIELDS}""",
        module="init",
        flags={"--template": "template", "--interactive": "", "--output": "file", "--list": "", "--json": ""},
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

Both work unchanged; what to put into the TOML is printed. A backend of your own is chosen in the same way, as
backend = "module:attribute"; what it has to have is in the manual: retrain man configuration.""",
        module="init_plugin",
        flags={"--kind": "kind", "--name": "text", "--output": "folder", "--with-test": ""},
    ),
    "plugins": Command(
        usage="retrain plugins [CONFIG.toml] [--kind KIND] [--json]",
        summary="list every name that a config may choose, with its origin and options",
        details=f"""\
With CONFIG.toml: also the modules of your own that it names. Nothing is imported: they are read, not run.

--kind KIND   one family only: mode, baseline, transform, signal, detector, reward, data, engine or backend
--json        {FIELDS}""",
        module="plugins",
        takes=("toml",),
        flags={"--kind": "family", "--json": ""},
    ),
    "backends": Command(
        usage="retrain backends [--json]",
        summary="see what each backend and engine honours and needs, and whether it is usable here",
        details=f"""\
Also those of installed packages. Nothing is imported: the choices say themselves what they can do.

--json    {FIELDS}""",
        module="backends",
        flags={"--json": ""},
    ),
    "doctor": Command(
        usage="retrain doctor [CONFIG.toml] [OVERRIDE …] [--FLAG VALUE …] [--probe] [--json]",
        summary="look at what is really there, and whether a config would run on it",
        details=f"""\
Without CONFIG.toml: retrain.toml in this folder, if there is one. Overrides and flags are those of a run. Of a TOML
with [campaign], each condition is looked at once.

The machine: Python and packages against the supported versions, extras, torch and its devices, cores, memory, git,
terminal, clock. Services: the hub, its cache and token, the tracker. The config: everything that is wrong with it, disk
and memory that it needs, its model, its problems and their lengths, the plugins that it names, and its reward on the
reference answers (which must count as correct) and on those of other problems (which must not).

--probe   load the model, sample 64 prompts and compute one gradient: how many groups there are to learn from, how many
          completions are cut, how fast it is, whether sampler and trainer agree, how long the run would take
--json    {FIELDS}

Nothing is written but what is cached: tokenizer and data of the hub. Missing models are not downloaded.

Exit code 0: nothing that stops a run was found; warnings may have been. 1: a check has failed: the config cannot run,
or without a config, no run can.""",
        module="doctor",
        takes=("toml",),
        flags={"--probe": "", "--json": ""},
        composes=True,
    ),
    "status": Command(
        usage="retrain status [RUN|CAMPAIGN|DIR …] [--watch] [--all] [--json]",
        summary="see what the runs and campaigns here are doing, and what to do about those in trouble",
        details=f"""\
Without arguments: the newest 20 campaigns and the newest 20 other runs under outputs/. DIR: those below that folder.
One RUN: more about it. One CAMPAIGN: its conditions and seeds as a table, with the curve of each run's reward.

--watch   show it again every 2 seconds until Ctrl-C; in a pipe, a line for each run that has moved on
--all     every run, not only the newest 20
--json    {FIELDS}

A run is running, done, failed or interrupted; stalled when it has made no progress for health.stall_timeout seconds;
interrupted too when its process is gone without a word (kill -9); damaged when run.json cannot be read. On another
machine the process cannot be looked for: there a run is also stalled when it has written nothing for three minutes.""",
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
--json            {FIELDS}

Of a search: its trials, best first. That is no verdict; best.toml in its directory is the campaign that gives one.
What all numbers mean: retrain man --topic compare""",
        module="compare",
        takes=("run",),
        flags={"--metric": "metric", "--by": "key", "--failures": "floor", "--html": "file", "--json": ""},
    ),
    "resume": Command(
        usage="retrain resume RUN|CAMPAIGN [OVERRIDE …] [--FLAG VALUE …] [--retry-failed]",
        summary="go on with a run or a campaign that was interrupted or failed, in place",
        details="""\
Goes on from the newest whole checkpoint, with the config that the run was started with. Overrides and flags may change
what no step depends on: the length (--max-steps, also of a finished run), saving, logging and health.
`retrain CONFIG.toml --resume RUN` is the same with the TOML's values. More: retrain man resume

Of a CAMPAIGN every run that is not done is started: half-done ones from their checkpoints. --retry-failed lets failed
runs begin anew instead. It takes no overrides.""",
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
--json            {FIELDS}""",
        module="eval",
        takes=("weights", "toml"),
        flags={"--best": "", "--checkpoint": "number", "--test": "", "--json": ""},
        composes=True,
    ),
    "debug-batch": Command(
        usage="retrain debug-batch FILE [--devices TEXT] [--json]",
        summary="find what made a step's loss or gradient not finite",
        details=f"""\
FILE is RUN/debug/step-N.pt, which a run keeps when it stops for that reason. The same loss is computed again, with the
weights and the micro-batches of then, and once more for each completion alone. What is not finite is named: inputs,
weights, the module and the tokens of log-probabilities, the loss and gradient of completions, and of parameters.

--devices TEXT   where to compute it: cpu, gpu:0 (default: as the run's config says)
--json           {FIELDS}""",
        module="debug_batch",
        takes=("file",),
        flags={"--devices": "text", "--json": ""},
    ),
    "man": Command(
        usage="retrain man [TOPIC] [--list-topics] [--search WORDS] [--path] [--check] [--sync] [--no-pager] [--json]",
        summary="read the manual, or find something in it: keys, commands, the maths, what to do about trouble",
        details=f"""\
Without TOPIC: the topics, a line each. On a terminal the text is laid out to its width, and goes through a pager when
it is taller than the screen: $RETRAIN_PAGER, $MANPAGER, $PAGER, or less. In a pipe it is Markdown, as it is written.

--topic TOPIC    the same as TOPIC alone
--list-topics    the topics, a line each
--search WORDS   topics, keys, flags, commands, metrics, names, health rules and messages that have the words, the best
                 first; exit code 1 when nothing has them
--path           print the folder of the topics, with TOPIC its file, to edit them. An install that cannot be written to
                 is copied first to $XDG_DATA_HOME/retrain/manual (default ~/.local/share), and read from there
--check          exit code 1 when a generated part of a topic is not what it would be now, with its file and line
--sync           write those parts anew, and print which have changed
--no-pager       print all of it at once
--json           {FIELDS}""",
        module="man",
        takes=("topic",),
        flags={
            "--topic": "topic",
            "--list-topics": "",
            "--search": "text",
            "--path": "",
            "--check": "",
            "--sync": "",
            "--no-pager": "",
            "--json": "",
        },
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
--json          {FIELDS}

Without --best and --worst: the best and the worst of each group, beginning where a group's rewards differ most, then
the second best and second worst, and so on.

Green is a positive advantage, red a negative one, strong where it is near the step's largest. Planning tokens are
underlined. A character that is split over tokens is shown once, in the colour of its first token. In a pipe, and with
NO_COLOR, planning tokens are between « and » and a line gives every token's number.""",
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
        details="""\
Prints the address on stdout and serves it until Ctrl-C.

--experiment NAME   without RUN: the experiment whose charts are shown (default retrain)
--port N            default: a free one""",
        module="ui",
        takes=("run",),
        flags={"--experiment": "text", "--port": "number"},
    ),
    "sync": Command(
        usage="retrain sync RUN|CAMPAIGN",
        summary="send to the tracker what it has missed of a run, or of a campaign and all its runs",
        module="sync",
        takes=("run",),
    ),
    "completion": Command(
        usage="retrain completion bash|zsh|fish",
        summary="print the script that lets TAB complete a command line of retrain",
        details="""\
bash   eval "$(retrain completion bash)"        in ~/.bashrc; or, with bash-completion, once:
       retrain completion bash > ~/.local/share/bash-completion/completions/retrain
zsh    eval "$(retrain completion zsh)"         in ~/.zshrc; or, in a folder of fpath, once:
       retrain completion zsh > ~/.zfunc/_retrain
fish   retrain completion fish > ~/.config/fish/completions/retrain.fish

TAB then completes commands, TOML files, group files (algorithm=), keys (training.) and their values, flags and what
they take, runs (mini, mini@-2), conditions and topics. The script asks the program at each TAB, so it knows the group
files beside the TOML of the line, and needs no update with the program.

--words   what the script calls: reads a line up to the cursor on stdin, prints what may replace its last word""",
        module="completion",
        takes=("bash|zsh|fish",),
        flags={"--words": ""},
    ),
}
