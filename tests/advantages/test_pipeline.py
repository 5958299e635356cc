"""Pipelines: order is the algorithm, plugins are held to the contract, and a config becomes one."""

import pytest
import torch

from retrain import registry
from retrain.advantages import pipeline
from retrain.advantages.gtpo import Gtpo
from retrain.advantages.hicra import Hicra
from retrain.advantages.pipeline import TransformPipeline
from retrain.advantages.sepa import Sepa
from retrain.config import RunConfig, schema
from retrain.errors import ConfigError, RunError
from retrain.types import Batch, Credit

MASK = torch.tensor([[True, True, True], [True, True, False]])
LOGPROBS = torch.tensor([[-0.5, -2.0, -0.1], [-1.0, -1.0, -7.0]])
ADVANTAGES = torch.tensor([1.0, -1.0], dtype=torch.float64)


def batch():
    return Batch(
        prompt_ids=torch.zeros(2, 1, dtype=torch.long),
        prompt_mask=torch.ones(2, 1, dtype=torch.bool),
        completion_ids=torch.zeros(2, 3, dtype=torch.long),
        loss_mask=MASK,
        sampling_logprobs=LOGPROBS,
        entropies=None,
        rewards=torch.tensor([1.0, 0.0], dtype=torch.float64),
        group_ids=torch.tensor([0, 0]),
    )


def run(*transforms, planning=None, signal=None, step=3):
    declared = [pipeline._completed(transform, "given") for transform in transforms]
    made = TransformPipeline(declared, max_steps=10, **({"signal": signal} if signal else {}))
    logged = {}
    credit = made(ADVANTAGES, batch(), planning_mask=planning, step=step, log=logged.__setitem__)
    return credit, logged


def test_without_transforms_every_trained_token_has_its_completions_advantage():
    credit, _ = run()
    assert credit.advantages.tolist() == [[1, 1, 1], [-1, -1, 0]]
    assert credit.advantages.dtype == torch.float64


def test_order_is_the_algorithm():
    planning = torch.tensor([[False, True, False], [False, False, False]])
    gtpo, hicra = Gtpo(schema.Gtpo(beta=0.5)), Hicra(schema.Hicra(alpha=0.2))
    first, _ = run(gtpo, hicra, planning=planning)
    second, _ = run(hicra, gtpo, planning=planning)
    assert torch.allclose(first.advantages[0, 1], second.advantages[0, 1])  # both scale the token: they commute there
    evened = Sepa(schema.Sepa(steps=1, delay_steps=0, correct_rate_gate=0.0))
    after, _ = run(evened, gtpo, planning=torch.zeros_like(MASK))
    assert torch.allclose(after.advantages[0], torch.ones(3, dtype=torch.float64))  # gtpo reads what sepa evened out
    before, _ = run(gtpo, evened, planning=torch.zeros_like(MASK))
    assert not torch.allclose(before.advantages[0], torch.ones(3, dtype=torch.float64))


def bad_shape(credit, ctx):
    return credit.replace(advantages=credit.advantages[:, :1])


def bad_value(credit, ctx):
    return credit.replace(uncertainty=credit.uncertainty / 0)


def bad_type(credit, ctx):
    return credit.advantages


def bad_dtype(credit, ctx):
    return credit.replace(advantages=credit.advantages.long())


def raises(credit, ctx):
    raise KeyError("oops")


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (bad_shape, r"of shape \[2, 1\] at step 3, not a tensor of shape \[2, 3\]"),
        (bad_value, "uncertainty that are not finite at step 3"),
        (bad_type, "returned Tensor at step 3, not a Credit"),
        (bad_dtype, "of torch.int64 at step 3"),
        (raises, "failed at step 3: KeyError: 'oops'"),
    ],
)
def test_a_transform_that_breaks_the_contract_is_named_with_the_step(transform, said):
    with pytest.raises(RunError, match=said) as caught:
        run(transform)
    assert transform.__name__ in str(caught.value)


def test_a_signal_that_breaks_the_contract_is_named():
    def half(batch):
        return batch.sampling_logprobs[:1]

    with pytest.raises(RunError, match="half returned uncertainty of shape"):
        run(signal=half)


def test_a_transform_is_held_to_its_declaration_that_it_keeps_zero_rows():
    def lifts(credit, ctx):
        return credit.replace(advantages=credit.advantages + 1)

    zeros = torch.zeros(2, dtype=torch.float64)
    for declared in (False, True):
        lifts.keeps_zero_rows = declared
        made = TransformPipeline([lifts], max_steps=10)
        if not declared:
            made(zeros, batch(), planning_mask=None, step=0, log=lambda *_: None)
            continue
        with pytest.raises(RunError, match="lifts declares keeps_zero_rows"):
            made(zeros, batch(), planning_mask=None, step=0, log=lambda *_: None)


def test_what_a_transform_writes_outside_the_mask_is_dropped():
    def everywhere(credit, ctx):
        return credit.replace(advantages=torch.full_like(credit.advantages, 7.0))

    credit, _ = run(everywhere)
    assert credit.advantages.tolist() == [[7, 7, 7], [7, 7, 0]]


def test_a_float32_plugin_goes_on_in_float64():
    def single(credit, ctx):
        return Credit(advantages=credit.advantages.float() / 3, uncertainty=credit.uncertainty.float())

    credit, _ = run(single, Gtpo(schema.Gtpo()))
    assert credit.advantages.dtype == torch.float64


def test_the_state_of_a_pipeline_is_that_of_its_parts_by_place():
    sepa = Sepa(schema.Sepa(schedule="auto"))
    made = TransformPipeline([Gtpo(schema.Gtpo()), sepa], max_steps=10)
    made(ADVANTAGES, batch(), planning_mask=torch.zeros_like(MASK), step=0, log=lambda *_: None)
    state = made.state_dict()
    assert list(state) == ["1"]
    other = TransformPipeline([Gtpo(schema.Gtpo()), Sepa(schema.Sepa(schedule="auto"))], max_steps=10)
    other.load_state_dict(state)
    assert other.state_dict() == state


PLUGIN = """
from dataclasses import dataclass

def double(credit, ctx):
    return credit.replace(advantages=2 * credit.advantages)

@dataclass
class Scale:
    by: float = 3.0
    def __call__(self, credit, ctx):
        return credit.replace(advantages=self.by * credit.advantages)

def make_transform_spec(by: float = 5.0, twice: bool = False):
    return [Scale(by), double] if twice else Scale(by)

def strange():
    return 42
"""


def built(tmp_path, name, **params):
    (tmp_path / "my_transforms.py").write_text(PLUGIN)
    config = RunConfig()
    config.algorithm.transform_mode, config.algorithm.transform_params = f"my_transforms.{name}", params
    made = pipeline.build(config, None, [tmp_path])
    credit = made(ADVANTAGES, batch(), planning_mask=None, step=0, log=lambda *_: None)
    return float(credit.advantages[0, 0])


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        ("double", {}, 2),
        ("Scale", {}, 3),
        ("Scale", {"by": 4.0}, 4),
        ("make_transform_spec", {}, 5),
        ("make_transform_spec", {"by": 6.0, "twice": True}, 12),
    ],
)
def test_a_plugin_is_a_function_a_class_or_a_factory(tmp_path, name, params, expected):
    assert built(tmp_path, name, **params) == expected


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("Scale", {"bye": 4.0}, "has no option bye"),
        ("double", {"by": 4.0}, "takes no options"),
        ("strange", {}, "gave int"),
        ("absent", {}, "has no attribute absent"),
    ],
)
def test_a_plugin_that_cannot_be_made_is_the_users_error(tmp_path, name, params, said):
    with pytest.raises(ConfigError, match=said):
        built(tmp_path, name, **params)


@pytest.mark.parametrize("mode", registry.MODES)
def test_every_mode_builds_and_declares_what_its_entries_promise(mode):
    config = RunConfig()
    config.algorithm.transform_mode = mode

    class Plain:
        hf = None

        def decode(self, ids):
            return ""

    tokenizer = Plain()
    names = registry.MODES[mode]
    if any("planning_mask" in registry.BUILTIN["transform"][n].requires for n in names):
        from retrain.config import RunConfig as Config
        from retrain.model import load_tokenizer

        tiny = Config()
        tiny.model.model = "builtin:tiny"
        tokenizer = load_tokenizer(tiny)
    made = pipeline.build(config, tokenizer, [])
    for name, transform in zip(names, made.transforms, strict=True):
        assert transform.requires == registry.BUILTIN["transform"][name].requires & {"planning_mask"}
        assert transform.scope in {"row", "group", "batch"}
