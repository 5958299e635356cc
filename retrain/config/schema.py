"""Every config key, once: name, type, default, allowed values, unit and meaning.

Validation, flags, `explain`, completion, the manual and the configuration reference are all derived from these
dataclasses; there is no second list of keys. Only the standard library is imported here.

A key enters when it works. Names are a public contract: ``[section] key`` in TOML, ``section.key=value`` and
``--section-key value`` on the command line.
"""

from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

from retrain.config.keys import Key, key, keys_of

GROUPS = ("model", "algorithm", "backend", "inference", "reward", "data")
"""Sections that are also config groups: each of their files in `conf/` sets keys of its own section only."""


@dataclass
class Model:
    """Which language model is trained, and how it is loaded."""

    model: str = key("Qwen/Qwen3-4B-Instruct-2507", "hub id, local folder, or builtin:tiny", identity=True)
    revision: str = key("", "branch, tag or commit on the hub; empty: the default branch")
    local_files_only: bool = key(False, "never ask the hub: use what is in the local cache")
    adapter: str = key("", "start from this PEFT adapter, a folder or a hub id; empty: a new one", takes="folder")
    lora_rank: int = key(32, "rank of the LoRA adapter; 0: train every weight, then give training.lr", low=0)
    dtype: str = key(
        "auto",
        "number format of the weights; auto: bfloat16 on a GPU that has it, float32 on a CPU",
        choices=("auto", "float32", "bfloat16", "float16", "float64"),
    )
    attn_implementation: str = key("auto", "attention kernel; auto: sdpa", choices=("auto", "sdpa", "eager"))


@dataclass
class Lora:
    """The shape of the LoRA adapter (arXiv 2106.09685)."""

    alpha: float = key(
        32.0, "scale: the update is (alpha / rank)·B·A, so the best lr hardly depends on the rank", above=0
    )
    dropout: float = key(0.0, "share of adapter inputs zeroed while training", low=0.0, high=0.99)
    target_modules: str = key("all-linear", "which layers get an adapter: all-linear, or module names joined by commas")


@dataclass
class Algorithm:
    """From rewards to advantages, and the policy loss."""

    advantage_mode: str = key(
        "grpo", "how rewards become one advantage per completion", registry="baseline", identity=True
    )
    transform_mode: str = key("none", "how that becomes one advantage per token", registry="mode", identity=True)
    scale_rewards: str = key(
        "none",
        "grpo only: divide by the standard deviation of the group or the batch",
        choices=("none", "group", "batch"),
    )
    uncertainty_kind: str = key("surprisal", "what transforms read of each token", registry="signal")
    transforms: list[dict[str, Any]] = key(
        [],
        'transforms in order, instead of transform_mode: [{name = "sepa"}, {name = "gtpo", beta = 0.2}]',
        owner="algorithm.transform_mode",
    )
    advantage_params: dict[str, Any] = key({}, "options of a baseline of your own", owner="algorithm.advantage_mode")
    transform_params: dict[str, Any] = key({}, "options of a transform of your own", owner="algorithm.transform_mode")
    entropy_mask_rho: float = key(0.2, "share of a group's tokens that entropy_mask keeps", above=0.0, high=1.0)
    adv_clip_max: float = key(0.0, "no token's advantage is larger than this, applied last; 0: off", low=0.0)
    skip_uninformative: bool = key(True, "spend no backward pass on completions whose advantages are all zero")
    mask_truncated: bool = key(False, "leave completions cut at max_tokens out of the loss")
    loss_type: str = key(
        "dapo",
        "TRL's policy loss",
        choices=("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo"),
    )
    importance_sampling_level: str = key(
        "token", "one ratio per token or per completion", choices=("token", "sequence")
    )
    kl_coef: float = key(0.0, "weight of the KL penalty towards the starting model", low=0.0)
    clip_eps: float = key(0.2, "the ratio may move this far below 1", low=0.0)
    clip_eps_high: float = key(
        0.0, "and this far above; 0: the same. cispo needs an explicit one of at least 1", low=0.0
    )
    delta: float = key(0.0, "two-sided clip: an upper bound on the ratio of bad completions; 0: off", low=0.0)
    num_iterations: int = key(1, "optimiser steps on each generated batch", low=1)

    @property
    def skips_zero_rows(self) -> bool:
        """Whether a completion of zero advantage costs no backward pass: a KL penalty would give it a gradient."""
        return self.skip_uninformative and self.kl_coef == 0.0


@dataclass
class Gtpo:
    """How strongly GTPO follows a token's uncertainty (docs/advantages.md)."""

    beta: float = key(0.1, "0: not at all; up to 1 no weight is clamped and the mean advantage stays", low=0.0)


@dataclass
class Hicra:
    """How much HICRA adds to planning tokens (docs/advantages.md)."""

    alpha: float = key(0.2, "share of |A| that is added; below 1 every sign stays", low=0.0)


@dataclass
class Sepa:
    """How fast SEPA evens out the uncertainty of execution tokens (docs/sepa.md)."""

    steps: int = key(-1, "steps in which lambda goes from 0 to 1; -1: half of training.max_steps", low=-1)
    schedule: str = key(
        "linear", "linear in time, or auto: faster once uncertainty has settled", choices=("linear", "auto")
    )
    delay_steps: int = key(-1, "steps before lambda leaves 0; -1: a tenth of training.max_steps", low=-1)
    correct_rate_gate: float = key(0.1, "lambda stays 0 until a batch was right this often", low=0.0, high=1.0)

    def timing(self, max_steps: int) -> tuple[int, int]:
        """Return (delay, steps) of a run of `max_steps`: lambda is 0 up to the delay and 1 that many steps later."""
        delay = max_steps // 10 if self.delay_steps == -1 else self.delay_steps
        return delay, max_steps // 2 if self.steps == -1 else self.steps


@dataclass
class EntropyMask:
    """Options of the transform entropy_mask; `algorithm.entropy_mask_rho` is its key."""

    rho: float = key(0.2, "share of a group's tokens that keep their advantage", above=0.0, high=1.0)


@dataclass
class Whiten:
    """The transform whiten has no options."""


@dataclass
class Clip:
    """Options of the transform clip; `algorithm.adv_clip_max` is its key."""

    max: float = key(0.0, "largest advantage of a token; 0: off", low=0.0)


@dataclass
class Planning:
    """What counts as planning (docs/advantages.md)."""

    detector: str = key("regex", "finds planning phrases in a completion's text", registry="detector")
    strategic_grams: list[str] = key([], "phrases that the regex detector looks for; empty: the built-in eighteen")


@dataclass
class Training:
    """The loop: how much, how long, how fast."""

    seed: int = key(42, "of everything random; -1: draw one and record it", low=-1, high=2**31 - 1)
    max_steps: int = key(500, "optimiser steps", low=1)
    batch_size: int = key(8, "prompts a step, over all devices", low=1)
    group_size: int = key(16, "completions per prompt", low=2)
    max_tokens: int = key(2048, "longest completion, in tokens", low=1)
    temperature: float = key(1.0, "divides the logits, in the sampler and in the loss alike", above=0.0)
    top_p: float = key(
        1.0,
        "sample from the smallest set of tokens with this probability; below 1 the loss is biased",
        above=0.0,
        high=1.0,
    )
    stop: list[str] = key([], "texts that end a completion")
    lr: float = key(4e-5, "learning rate of AdamW", low=0.0)
    lr_schedule: str = key("constant", "after the warm-up", choices=("constant", "linear", "cosine"))
    warmup_steps: int = key(0, "steps over which the learning rate rises from 0", low=0)
    weight_decay: float = key(0.0, "of AdamW", low=0.0)
    max_grad_norm: float = key(1.0, "clip the gradient to this norm; 0: do not", low=0.0)
    max_examples: int = key(0, "use only this many examples; 0: all", low=0)
    shuffle: bool = key(True, "draw a new order for each pass over the data")
    save_every: int = key(20, "steps between checkpoints; 0: only at the end", low=0)
    save_minutes: float = key(0.0, "also save when this many minutes have passed since the last time; 0: off", low=0.0)
    keep_checkpoints: int = key(2, "how many checkpoints stay on disk", low=1)
    micro_batch_size: int = key(0, "completions in one forward pass; 0: chosen from max_tokens", low=0)
    gradient_checkpointing: str = key(
        "auto",
        "recompute activations in the backward pass: less memory, more time; auto: on a GPU",
        choices=("auto", "on", "off"),
    )


@dataclass
class Eval:
    """The held-out score: what the training reward alone cannot tell (docs/evaluation.md)."""

    every: int = key(50, "steps between evaluations, also at the start and the end; 0: off", low=0)
    source: str = key("", "data source; empty: a part of the training source, never trained on", registry="data")
    path: str = key("", "jsonl: the file", takes="file")
    name: str = key("", "as data.name, for eval.source")
    split: str = key("", "which part of eval.source; empty: its test split")
    examples: int = key(256, "at most so many problems; 0: all of the held-out part", low=0)
    samples: int = key(1, "completions per problem; more than one gives pass@k", low=1)
    temperature: float = key(-1.0, "0: the likeliest token; -1: training.temperature", low=-1.0)
    max_tokens: int = key(0, "longest completion, in tokens; 0: training.max_tokens", low=0)
    reward: str = key("", "a stricter one shows reward hacking; empty: the training reward", registry="reward")
    keep_best: bool = key(True, "keep the best adapter by held-out score as adapter-best")
    final_test: bool = key(False, "score the source's own test split once, at the end")


@dataclass
class Optimizer:
    """AdamW (arXiv 1711.05101)."""

    beta1: float = key(0.9, "decay of the gradient's running mean", low=0.0, high=0.9999999)
    beta2: float = key(0.95, "decay of its running square", low=0.0, high=0.9999999)
    eps: float = key(1e-8, "added to the denominator", above=0.0)


@dataclass
class Backend:
    """Who computes gradients, and where."""

    backend: str = key("local", "who computes gradients, and owns the loop", registry="backend", identity=True)
    devices: str = key("auto", "auto: the first GPU if there is one; or cpu, gpu:0, cuda:0")
    adapter_path: str = key(
        "", "also write the final adapter here, in one move after success; empty: only into the run", takes="folder"
    )
    options: dict[str, Any] = key({}, "options of the backend itself", owner="backend.backend")


@dataclass
class Inference:
    """Who samples completions."""

    engine: str = key("pytorch", "the sampler", registry="engine", identity=True)
    weights: str = key(
        "auto",
        "shared: the training weights; shadow: a merged copy, faster; auto: shadow where memory allows",
        choices=("auto", "shared", "shadow"),
    )


@dataclass
class Data:
    """Where problems come from, and how they are put to the model."""

    source: str = key("math", "name of a source", registry="data", identity=True)
    path: str = key("", "jsonl: the file", takes="file")
    name: str = key("", "hf: the data set's hub id; math: subjects; arithmetic: a recipe such as +-:1-3", identity=True)
    split: str = key("train", "which part of the data set")
    prompt_key: str = key("", "column that holds the problem; empty: the source's own")
    answer_key: str = key("", "column that holds the reference answer; empty: the source's own")
    system_prompt: str = key("", "sent before every problem; empty: none")
    instruction: str = key(
        "auto", "appended to every problem; auto: the source's own, by default a request for \\boxed{}"
    )
    chat_template_args: dict[str, Any] = key(
        {}, "given to the chat template, e.g. enable_thinking = false", owner="model.model"
    )


@dataclass
class Reward:
    """What is worth something."""

    type: str = key("", "how a completion is scored; empty: the data source's own", registry="reward", identity=True)
    timeout: float = key(5.0, "seconds for one completion, then it is unscorable", above=0.0)
    workers: int = key(0, "scoring processes; 0: one per CPU core, at most 8", low=0)


@dataclass
class Logging:
    """What is written, and where it is tracked."""

    log_dir: str = key("", "the run directory; empty: outputs/<toml name>/<time>", takes="folder")
    run_name: str = key("", "name in the tracker; empty: made from the run directory")
    experiment: str = key("retrain", "the tracker's experiment")
    tracking_uri: str = key("", "MLflow store; empty: MLFLOW_TRACKING_URI, else sqlite under outputs/; none: off")
    tags: dict[str, str] = key({}, "tags of the run in the tracker")
    log_completions: int = key(4, "completions a step shown in the tracker", low=0)
    keep_rollouts: str = key("all", "which steps' completions are kept on disk: all, none, or every n-th")
    log_adapter: bool = key(False, "upload the final adapter to the tracker; its path is always a tag")
    wandb_project: str = key("", "also send to this Weights & Biases project; empty: off")
    wandb_run_name: str = key("", "name there; empty: the run's")
    wandb_entity: str = key("", "team or user there")
    wandb_group: str = key("", "group there")
    wandb_tags: list[str] = key([], "tags there")


@dataclass
class Resume:
    """Where to go on (docs/resume.md)."""

    path: str = key(
        "", "a run to go on with; auto: the newest unfinished one of this TOML, else a fresh start", takes="auto|run"
    )


@dataclass
class Health:
    """What counts as a run that goes wrong (docs/troubleshooting.md)."""

    on_problem: str = key(
        "warn", "when a rule is broken: say so, or save a checkpoint and stop", choices=("warn", "stop")
    )
    max_truncated_rate: float = key(0.5, "share of completions cut at max_tokens", low=0.0, high=1.0)
    max_uninformative_steps: int = key(5, "steps in a row without a group to learn from", low=1)
    min_entropy_ratio: float = key(0.1, "mean entropy, as a share of its start", low=0.0, high=1.0)
    max_unchanged_steps: int = key(3, "steps in a row with a gradient that change no weight", low=1)
    max_length_correlation: float = key(0.8, "between reward and length over a batch, either sign", low=0.0, high=1.0)
    max_duplicate_rate: float = key(0.8, "share of completions equal to another of their group", low=0.0, high=1.0)
    min_planning_share: float = key(
        0.005, "share of tokens in planning phrases, while sepa or hicra is on", low=0.0, high=1.0
    )
    stall_timeout: float = key(1800.0, "seconds without any progress, then the stacks are written", above=0.0)


@dataclass
class Campaign:
    """Conditions × seeds, and what is to be found out (docs/campaigns.md). Not part of any run's own config."""

    seeds: list[int] = key([42, 101, 202, 303, 404, 505, 606, 707], "each condition is run with each of them", low=0)
    max_steps: int = key(0, "optimiser steps of every run; 0: training.max_steps", low=0)
    max_workers: int = key(1, "runs at once on this machine", low=1)
    launcher: str = key("local", "local: processes of this machine; or a launcher of Hydra, such as submitit_slurm")
    launcher_options: dict[str, Any] = key({}, "options of that launcher, such as partition", owner="campaign.launcher")
    conditions: list[dict[str, Any]] = key([], "tables of keys, or of overrides; empty: the ablation of five")
    sweeper: str = key("basic", "basic: run the conditions; optuna: search a space", choices=("basic", "optuna"))
    sweeper_options: dict[str, Any] = key(
        {},
        "of optuna: n_trials, direction, sampler (tpe, random, grid; or a table of name, seed, …), study_name, storage",
        owner="campaign.sweeper",
    )
    space: dict[str, Any] = key(
        {}, 'what optuna searches: "training.lr" = "tag(log, interval(1e-5, 1e-3))"', owner="campaign.sweeper"
    )
    baseline: str = key("", "the condition that the others are compared with; empty: the first")
    metric: str = key("eval/score", "what they are compared by, at the last step", takes="metric")
    min_effect: float = key(0.0, "the difference that matters, in units of the metric; 0: none was named", low=0.0)
    budget_hours: float = key(0.0, "stop cleanly after so many hours; 0: no limit", low=0.0)
    budget_tokens: int = key(0, "stop cleanly after so many generated tokens; 0: no limit", low=0)
    budget_money: float = key(
        0.0, "stop cleanly after runs have cost so much, in the backend's currency; 0: no limit", low=0.0
    )
    timeout: float = key(0.0, "seconds for one run, then it is ended; 0: no limit", low=0.0)
    max_retries: int = key(1, "how often a run that crashed goes on from its last checkpoint", low=0)


@dataclass
class RunConfig:
    """One run, whole."""

    model: Model = field(default_factory=Model)
    lora: Lora = field(default_factory=Lora)
    algorithm: Algorithm = field(default_factory=Algorithm)
    gtpo: Gtpo = field(default_factory=Gtpo)
    hicra: Hicra = field(default_factory=Hicra)
    sepa: Sepa = field(default_factory=Sepa)
    planning: Planning = field(default_factory=Planning)
    training: Training = field(default_factory=Training)
    eval: Eval = field(default_factory=Eval)
    optimizer: Optimizer = field(default_factory=Optimizer)
    backend: Backend = field(default_factory=Backend)
    inference: Inference = field(default_factory=Inference)
    data: Data = field(default_factory=Data)
    reward: Reward = field(default_factory=Reward)
    logging: Logging = field(default_factory=Logging)
    resume: Resume = field(default_factory=Resume)
    health: Health = field(default_factory=Health)


def _leaves() -> dict[str, Key]:
    sections = get_type_hints(RunConfig)
    return {key.dotted: key for section in fields(RunConfig) for key in keys_of(section.name, sections[section.name])}


KEYS: dict[str, Key] = _leaves()
"""Every leaf by its dotted name, in the order of the file."""

CAMPAIGN_KEYS: dict[str, Key] = {key.name: key for key in keys_of("campaign", Campaign)}
"""The keys of `[campaign]`, by their name."""

SECTIONS: tuple[str, ...] = tuple(f.name for f in fields(RunConfig))
