"""Hydra's sweep syntax: the jobs are BasicSweeper's, and text arrives as it was typed."""

import math

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import example, given
from hypothesis import strategies as st

from retrain.campaign.labels import label_of, labels_of
from retrain.campaign.sweep import MOST_RUNS, expand, is_multirun, split, take_hydra
from retrain.config import compose, values
from retrain.config.campaign import LABEL
from retrain.config.grammar import unquoted
from retrain.config.names import FLAGS
from retrain.config.schema import KEYS
from retrain.errors import ConfigError


def by_hydra(arguments):
    """The jobs of Hydra's own sweeper, as lists of (key, value)."""
    overrides = OverridesParser.create().parse_overrides(arguments)
    [jobs] = BasicSweeper.split_arguments(overrides, None)
    return [[read(text) for text in job] for job in jobs]


def read(text):
    """What an argument sets, however Hydra or we write it."""
    override = OverridesParser.create().parse_override(text)
    return override.get_key_element(), override.value()


# --- expand: against Hydra --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["algorithm=grpo,maxrl", "training.seed=1,2,3", "training.lr=choice(1e-5,4e-5)"],
        ["a.b=range(1,10,3)", "a.c=range(3,0,-1)", "a.d=range(0.0,1.0,0.25)"],
        ["a.b=sort(3,1,2)", "a.c=sort(choice(b,a),reverse=true)", "a.d=tag(t,choice(1,2))"],
        ["a.b=[1,2],[3,4]", "a.c={x:1,y:2},{x:3}", "a.d=[1,2]", "a.e={x:[1,2],y:'a,b'}"],
        ["a.b='x,y',\"z,w\"", "a.c='it\\'s',b", "a.d='x,y'"],
        ["+a.b=1,2", "++a.c=3,4", "a.d=5"],
        ["a.b=int(choice(1.5,2.5))", "a.c=str(1,2)", "a.d=float(range(1,3))"],
        ["a.b=${x.y},${oc.env:A,b}", "a.c=a b , c d"],
        ["a.b=1,2", "a.c=3,4", "a.b=5,6"],
        ["a.b=1,2", "a.c=3,4", "a.b=7"],
        ["a.b=a\\,b,c", "a.c=a\\,b"],
        ["a.b=choice( 1 , 2 )", "a.c=choice([1,2],[3])", "a.d=choice(a)"],
        ["a.b=", "a.c=null,1"],
    ],
)
def test_the_jobs_are_those_of_hydras_own_sweeper_in_its_order(arguments):
    ours = [sorted(map(read, job), key=str) for job in expand(arguments)]
    assert ours == [sorted(job, key=str) for job in by_hydra(arguments)]


ELEMENTS = st.recursive(
    st.text(alphabet="ab1.-/:_ ", min_size=1, max_size=4).filter(str.strip)
    | st.from_regex(r"'([^'\\]|\\')*'", fullmatch=True).filter(lambda text: len(text) < 9)
    | st.sampled_from(["1e-5", "true", "null", "${a}", "${a:b,c}", '"a,b"', "a\\,b"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.lists(inner, max_size=3).map(lambda items: "{" + ",".join(f"k{i}:{v}" for i, v in enumerate(items)) + "}")
    ),
    max_leaves=4,
)


@given(st.lists(ELEMENTS, min_size=1, max_size=4).map(",".join))
@example("'a\\'',b")
def test_values_are_cut_where_hydra_cuts_them(text):
    try:
        override = OverridesParser.create().parse_override(f"x={text}")
    except HydraException:
        return
    cut = split(text)
    if override.is_sweep_override():
        assert [read(f"x={part}")[1] for part in cut] == [
            read(f"x={value}")[1] for value in override.sweep_string_iterator()
        ]
    else:
        assert len(cut) == 1


# --- expand: what Hydra cannot do -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["it's", "é", "~/runs", "C:\\runs", "x=y (z) {q} [w] #1; é", "f(x)", ":-(", "a)b", ""])
def test_text_that_hydra_cannot_read_arrives_as_typed(text):
    assert expand([f"logging.run_name={text}"]) == [[f"logging.run_name={text}"]]


def test_values_of_a_text_key_are_not_read_as_numbers():
    jobs = expand(["model.revision=1e5,12e4567,it's,007,choice(a)"])
    assert [job[0].partition("=")[2] for job in jobs] == ["1e5", "12e4567", "it's", "007", "choice(a)"]
    assert compose(None, jobs[0]).config.model.revision == "1e5"


def test_an_apostrophe_inside_of_a_word_opens_no_quotes():
    assert expand(["logging.run_name=it's,that's"]) == [["logging.run_name=it's"], ["logging.run_name=that's"]]


def test_flags_their_values_and_what_the_campaign_reads_never_sweep():
    arguments = [
        "--lr",
        "1e-5,2e-5",
        "--run-name=a,b",
        "--backend-opt",
        "x=1,2",
        "condition=a,b",
        "campaign.seeds=[1,2]",
    ]
    assert expand(arguments) == [arguments]


def test_what_is_said_last_wins_also_over_a_sweep():
    assert expand(["training.lr=1e-5,2e-5", "--lr", "3e-5"]) == [["--lr", "3e-5"]]
    assert expand(["--lr", "3e-5", "training.lr=1e-5,2e-5"]) == [["training.lr=1e-5"], ["training.lr=2e-5"]]


def test_sums_of_a_range_are_written_as_they_are_meant():
    assert expand(["training.temperature=range(0.6,1.1,0.2)"]) == [
        [f"training.temperature={value}"] for value in ("0.6", "0.8", "1.0")
    ]


def test_glob_picks_group_files_of_the_package_the_toml_and_config_dir(tmp_path):
    for folder in ("conf", "more"):
        (tmp_path / folder / "algorithm").mkdir(parents=True)
        (tmp_path / folder / "algorithm" / f"maxrl_{folder}.toml").write_text('advantage_mode = "maxrl"\n')
    (tmp_path / "mini.toml").write_text("")
    arguments = ["algorithm=glob(maxrl*,exclude=*gtpo*)", "--config-dir", str(tmp_path / "more")]
    found = [job[0].partition("=")[2] for job in expand(arguments, tmp_path / "mini.toml")]
    assert found == ["maxrl", "maxrl_conf", "maxrl_more"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("training.lr=interval(1e-6,1e-4)", r"interval\(…\) has no list of values, which hydra/sweeper=basic needs"),
        ("training.lr=choice(1e-5,2e-5", r"\) is missing"),
        ("training.lr=shuffle(1,2,3", r"\) is missing"),
        ("training.lr=range(1,2,0)", "Hydra cannot read it: range"),
        ("training.lr=range(a,b)", "Hydra cannot read it"),
        ("training.seed=range(3,1)", "this range is empty"),
        ("training.seed=1,,2", "empty value between its commas"),
        ("training.seed=1,", "empty value between its commas"),
        ("training.seed=choice()", "empty value between its commas"),
        ("training.lr=glob(*)", "training.lr is no group"),
        ("algorithm=glob(zz*)", "no group file matches"),
    ],
)
def test_a_sweep_that_cannot_be_read_is_named(argument, message):
    with pytest.raises(ConfigError, match=message) as caught:
        expand(["training.batch_size=1,2", argument])
    assert argument in str(caught.value)


def test_all_wrong_sweeps_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        expand(["training.lr=interval(1,2)", "training.seed=1,,2"])
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("arguments", [["a.b=range(0,1000000000)"], [f"a.{name}=range(0,101)" for name in "bc"]])
def test_far_too_many_runs_are_refused(arguments):
    with pytest.raises(ConfigError, match=f"at most {MOST_RUNS} are allowed"):
        expand(arguments)


# --- multirun, Hydra's own keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--multirun", "a=1,2"], (True, ["a=1,2"])),
        (["a=1,2", "-m"], (True, ["a=1,2"])),
        (["--shuffle", "-m"], (True, ["--shuffle"])),
        (["--run-name", "-m", "a=1"], (False, ["--run-name", "-m", "a=1"])),
        ([], (False, [])),
    ],
)
def test_multirun_is_taken_out_unless_it_is_a_flags_value(arguments, expected):
    assert is_multirun(arguments) == expected


def test_hydras_launcher_and_sweeper_are_taken_with_their_options():
    mine = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=20"]
    mine += ["+hydra.launcher.ray.init={num_cpus:2}", "hydra.launcher.partition=it's"]
    choice, rest = take_hydra(["a=1,2", *mine, "--lr", "hydra/launcher=x"])
    assert (choice.launcher, choice.sweeper) == ("joblib", "optuna")
    assert choice.launcher_options == {"n_jobs": 2, "ray": {"init": {"num_cpus": 2}}, "partition": "it's"}
    assert choice.sweeper_options == {"n_trials": 20}
    assert rest == ["a=1,2", "--lr", "hydra/launcher=x"]


@pytest.mark.parametrize(
    "argument", ["hydra.run.dir=x", "hydra/job_logging=none", "hydra/launcher=", "hydra.launcher=x"]
)
def test_other_settings_of_hydras_are_refused(argument):
    with pytest.raises(ConfigError, match="has no effect in retrain"):
        take_hydra([argument])


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "label"),
    [
        (["algorithm=grpo", "training.lr=1e-5", "training.seed=3"], "algorithm=grpo,lr=1e-05"),
        (["--lr", "0.00001", "--shuffle", "false", "--seed", "3"], "lr=1e-05,shuffle=false"),
        (["training.temperature=0.5", "training.max_steps=7"], "training.temperature=0.5,max_steps=7"),
        (["training.seed=3"], "default"),
        (["condition=a", "campaign.max_workers=2", "--config-dir", "x"], "default"),
        (["backend.options.threads=4"], "options.threads=4"),
        (["~backend.options.threads"], "without=backend.options.threads"),
    ],
)
def test_a_label_says_what_a_job_changes(job, label):
    assert label_of(job) == label


def test_what_all_jobs_share_is_left_out():
    jobs = expand(["training.max_steps=5", "algorithm=grpo,maxrl", "training.seed=1,2", "--lr", "1e-4"])
    assert labels_of(jobs) == ["algorithm=grpo"] * 2 + ["algorithm=maxrl"] * 2


TEXTS = st.text(max_size=40) | st.text(alphabet="ab_,/=", max_size=150)


@given(TEXTS, TEXTS)
@example("it's", "it_s")
@example("a,revision=b", "a")
@example("x" * 200, "x" * 201)
def test_labels_name_folders_and_differ_where_the_values_do(one, other):
    labels = [label_of([f"model.revision={text}"]) for text in (one, other)]
    assert all(LABEL.fullmatch(label) and label.isprintable() and len(label) <= 100 for label in labels)
    assert (labels[0] == labels[1]) == (unquoted(one) == unquoted(other))


def test_no_secret_and_no_password_is_in_a_label():
    label = label_of(
        ["logging.tracking_uri=http://me:hunter2@host/", "inference.api_key=hunter3", "backend.options.token=hunter4"]
    )
    assert "hunter" not in label


def test_a_key_is_short_only_when_no_other_key_ends_like_it():
    for dotted, key in KEYS.items():
        if dotted == "training.seed" or values.base_type(key) is dict:
            continue
        shown = label_of([f"{dotted}=1"]).partition("=")[0]
        assert shown in (dotted, key.name)
        assert (shown == dotted) == (sum(known.name == key.name for known in KEYS.values()) > 1)


def test_labels_of_a_sweep_of_everything_are_few_and_fast():
    jobs = expand(["algorithm=grpo,maxrl", "training.lr=1e-5,2e-5", "training.seed=range(0,250)"])
    assert len(set(labels_of(jobs))) == 4
    assert len(jobs) == math.prod([2, 2, 250])
    assert FLAGS["--lr"] == "training.lr"
