"""The pipeline of a config: which transforms, in which order, with which options; and what is refused."""

from dataclasses import replace

import pytest

from retrain import registry
from retrain.config import compose
from retrain.config.transforms import asks_for, planned
from retrain.engines.options import PYTORCH
from retrain.errors import ConfigError


def toml(tmp_path, text):
    path = tmp_path / "mini.toml"
    path.write_text(text)
    return path


def steps(tmp_path, text, *arguments):
    return planned(compose(toml(tmp_path, text), arguments, cwd=tmp_path).config)


def refusal(tmp_path, text, *arguments):
    with pytest.raises(ConfigError) as caught:
        compose(toml(tmp_path, text), arguments, cwd=tmp_path)
    return str(caught.value)


@pytest.mark.parametrize("mode", registry.MODES)
def test_a_mode_is_the_list_in_the_table(tmp_path, mode):
    found = steps(tmp_path, f'[algorithm]\ntransform_mode = "{mode}"')
    assert tuple(step.name for step in found) == registry.MODES[mode]


def test_options_come_from_the_transforms_own_section(tmp_path):
    (sepa, gtpo) = steps(tmp_path, '[algorithm]\ntransform_mode = "gtpo_sepa"\n[gtpo]\nbeta = 0.3\n[sepa]\nsteps = 7')
    assert (sepa.options.steps, gtpo.options.beta) == (7, 0.3)


def test_an_entry_overrides_its_section_and_any_order_composes(tmp_path):
    text = '[algorithm]\ntransforms = [{name = "hicra"}, {name = "gtpo", beta = 0.2}, {name = "gtpo", beta = 0.5}]'
    found = steps(tmp_path, text)
    assert [step.name for step in found] == ["hicra", "gtpo", "gtpo"]
    assert [step.options.beta for step in found[1:]] == [0.2, 0.5]


def test_the_clip_comes_last(tmp_path):
    found = steps(tmp_path, '[algorithm]\ntransform_mode = "gtpo_hicra"\nadv_clip_max = 3')
    assert [step.name for step in found] == ["gtpo", "hicra", "clip"]
    assert found[-1].options.max == 3


def test_transforms_replace_the_mode_and_a_higher_mode_clears_them(tmp_path):
    text = '[algorithm]\ntransforms = [{name = "whiten"}]'
    assert [step.name for step in steps(tmp_path, text)] == ["whiten"]
    assert [step.name for step in steps(tmp_path, text, "--transform-mode", "gtpo")] == ["gtpo"]
    assert steps(tmp_path, text, "--transform-mode", "none") == []
    assert [step.name for step in steps(tmp_path, text, "algorithm=maxrl_gtpo_sepa")] == ["sepa", "gtpo"]


def test_transforms_arrive_from_the_command_line(tmp_path):
    found = steps(tmp_path, "", "algorithm.transforms=[{name: entropy_mask, rho: 0.5}, {name: whiten}]")
    assert [(step.name, getattr(step.options, "rho", None)) for step in found] == [
        ("entropy_mask", 0.5),
        ("whiten", None),
    ]


def test_a_runs_own_toml_gives_the_same_pipeline(tmp_path):
    text = (
        '[algorithm]\ntransform_mode = "gtpo"\ntransforms = [{name = "sepa", steps = 3}, {name = "gtpo", beta = 0.4}]'
    )
    composed = compose(toml(tmp_path, text), cwd=tmp_path)
    again = tmp_path / "config.toml"
    again.write_text(composed.to_toml())
    assert planned(compose(again, cwd=tmp_path).config) == planned(composed.config)


def test_a_plugin_gets_its_own_table(tmp_path):
    (tmp_path / "my_transforms.py").write_text("")
    text = '[algorithm]\ntransform_mode = "my_transforms.make"\n[algorithm.transform_params]\neta = 0.5'
    (step,) = steps(tmp_path, text)
    assert (step.name, step.options) == ("my_transforms.make", {"eta": 0.5})
    assert asks_for([step], "uncertainty")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[algorithm]\ntransform_mode = "gtpo_spea"', 'did you mean "gtpo_sepa"'),
        ('[algorithm]\ntransforms = [{name = "gtpoo"}]', 'did you mean "gtpo"'),
        ("[algorithm]\ntransforms = [{beta = 0.2}]", "transforms[1] has no name"),
        ('[algorithm]\ntransforms = ["gtpo"]', "a list of tables is needed"),
        ('[algorithm]\ntransforms = [{name = "gtpo", bata = 0.2}]', 'no option "bata"; did you mean "beta"'),
        ('[algorithm]\ntransforms = [{name = "gtpo", beta = -1.0}]', "out of range"),
        ('[algorithm]\ntransforms = [{name = "gtpo", beta = "0.2"}]', "drop the quotes"),
        ('[algorithm]\ntransforms = [{name = "gtpo", beta = 0.2}]\n[gtpo]\nbeta = 0.3', "say it once"),
        ('[algorithm]\ntransforms = [{name = "sepa"}, {name = "sepa"}, {name = "gtpo"}]', "sepa twice"),
        ('[algorithm]\ntransforms = [{name = "gtpo"}, {name = "sepa"}]', "sepa after everything that reads"),
        ('[algorithm]\ntransforms = [{name = "whiten"}, {name = "whiten"}]', "whitens twice"),
        ("[gtpo]\nbeta = 0.3", "no transform of this pipeline is gtpo"),
        ("[sepa]\nsteps = 3", "no transform of this pipeline is sepa"),
        ("[algorithm]\nentropy_mask_rho = 0.4", "no transform of this pipeline is entropy_mask"),
        ('[planning]\nstrategic_grams = ["aha"]', "asks which tokens plan"),
        ('[algorithm]\nuncertainty_kind = "shannon_entropy"', "no transform of this pipeline reads it"),
        ('[algorithm]\ntransform_mode = "gtpo"\nuncertainty_kind = "suprisal"', 'did you mean "surprisal"'),
        ('[algorithm]\ntransform_mode = "gtpo"\ntransform_params = {a = 1}', "of your own"),
        ("[algorithm]\nadvantage_params = {a = 1}", "of your own"),
        ('[algorithm]\ntransform_mode = "entropy_mask"\nentropy_mask_rho = 0.0', "above 0"),
        ('[algorithm]\ntransform_mode = "gtpo_sepa"\n[sepa]\nsteps = 0', "lambda stays 0"),
        (
            '[algorithm]\ntransform_mode = "gtpo_sepa"\n[sepa]\ndelay_steps = 30\n[training]\nmax_steps = 20',
            "lambda leaves 0 after step 30, and the last of max_steps = 20 is 19",
        ),
    ],
)
def test_what_cannot_act_or_is_not_known_is_refused_with_the_place(tmp_path, text, said):
    message = refusal(tmp_path, text)
    assert said in message
    assert "mini.toml:" in message


def test_a_signal_that_the_engine_cannot_give_is_refused_naming_both(tmp_path, monkeypatch):
    monkeypatch.setattr("retrain.engines.options.PYTORCH", replace(PYTORCH, gives=frozenset()))
    text = '[algorithm]\ntransform_mode = "gtpo"\nuncertainty_kind = "shannon_entropy"'
    message = refusal(tmp_path, text)
    assert 'mini.toml:3: uncertainty_kind = "shannon_entropy" needs entropies, which engine "pytorch"' in message


def test_sepa_with_a_schedule_that_acts_is_fine(tmp_path):
    text = '[algorithm]\ntransform_mode = "gtpo_sepa"\n[training]\nmax_steps = 20'
    assert steps(tmp_path, text)[0].options.timing(20) == (2, 10)


def test_the_auto_schedule_may_act_before_its_linear_part(tmp_path):
    sepa = '[sepa]\nschedule = "auto"\ndelay_steps = 500'
    text = f'[algorithm]\ntransform_mode = "gtpo_sepa"\n{sepa}\n[training]\nmax_steps = 20'
    assert [step.name for step in steps(tmp_path, text)] == ["sepa", "gtpo"]
