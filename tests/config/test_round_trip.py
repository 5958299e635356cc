"""A run's config.toml composes to the same config, and holds no secret."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

PIECES = ["a", "${", "}", "\\", "$", "{", "'", '"', ":", ",", "é", "\n", "#", "[", "=", "training.seed"]
ODD = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


def again(project, composed):
    project.write("run/config.toml", composed.to_toml())
    return project.compose(toml="run/config.toml")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["experiment=demo"],
        ["algorithm=maxrl", "--lora-rank", "0", "--lr", "1e-6"],
        ["--run-name", "C:\\x\\", "--tracking-uri", "https://u:p@host", "training.stop=['</a>', \"it's\"]"],
        ["logging.tags={a: b}", "data.chat_template_args={n: [1, 2.5, true, {x: y}]}", "--backend-opt", "threads=2"],
        ["--run-name", "r${model.lora_rank}", "logging.wandb_project=${logging.run_name}"],
        ["logging.tags.x=\\${literal}", "training.stop=['\\${x}', '${oc.env:HOME}']"],
    ],
)
def test_the_resolved_config_composes_to_an_equal_one(project, arguments):
    composed = project.compose(*arguments)
    assert again(project, composed).config == composed.config


def test_a_resolved_interpolation_is_written_resolved(project):
    assert 'run_name = "r32"' in project.compose("--run-name", "r${model.lora_rank}").to_toml()


def test_what_comes_from_the_environment_is_written_unresolved_at_first_and_at_second_hand(project, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    composed = project.compose(
        "data.chat_template_args.api_key=${oc.env:HF_TOKEN}",
        "logging.tags.copy=${logging.run_name}",
        "logging.run_name=x-${oc.env:HF_TOKEN}",
        "logging.wandb_group=${oc.decode:${oc.env:HF_TOKEN}}",
        "logging.wandb_project=p",
    )
    assert composed.config.data.chat_template_args["api_key"] == "hf_secret"
    assert composed.config.logging.tags["copy"] == "x-hf_secret"
    text = composed.to_toml()
    assert "hf_secret" not in text
    assert 'api_key = "${oc.env:HF_TOKEN}"' in text
    assert again(project, composed).config == composed.config


def test_a_drawn_value_is_in_the_file(project):
    composed = project.compose("--seed", "-1").replace("training.seed", 123, "drawn")
    assert again(project, composed).config.training.seed == 123


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(name="\\${training.seed}", stop=["\\\\${x"], tag="\\")
@given(name=ODD, stop=st.lists(ODD.filter(bool), max_size=2), tag=ODD)
def test_any_text_survives_the_round_trip(project, name, stop, tag):
    """Literal texts enter through the program's own door (`replace`), so that nothing is interpolated on the way in."""
    composed = project.compose()
    for key, value in {"logging.run_name": name, "training.stop": stop, "logging.tags": {"t": tag}}.items():
        composed = composed.replace(key, value, "test")
    assert again(project, composed).config == composed.config


def test_the_run_s_own_toml_is_valid_and_names_version_and_source(project):
    import tomllib

    import retrain

    project.write("mini.toml", "[training]\nlr = 1e-5\n")
    text = project.compose().to_toml()
    assert text.startswith(f"# The resolved config of a run, made by retrain {retrain.__version__} from mini.toml.")
    table = tomllib.loads(text)
    assert table["training"]["lr"] == 1e-5
