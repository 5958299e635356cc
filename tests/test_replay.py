"""A batch whose loss is not finite names the stage, the completion, the token and the weight that did it."""

import json
import math

import pytest
import torch

from retrain.cli.main import main
from retrain.config import compose
from retrain.errors import ConfigError
from retrain.model import load_policy, load_tokenizer
from retrain.replay import replay
from retrain.training_state import keep_batch
from tests.models import randomise_adapter

TEXTS = ["12", "99", "100", "7", "41+1"]


class Run:
    """A run directory with a config, a policy and a batch, before something is broken in it."""

    def __init__(self, folder, **changes):
        self.dir = folder / "run"
        self.dir.mkdir()
        keys = {"training.max_tokens": 16, "model.lora_rank": 4, **changes}
        overrides = ["model=tiny", "data=arithmetic", *(f"{key}={value}" for key, value in keys.items())]
        toml = folder / "tiny.toml"
        toml.write_text("")
        composed = compose(toml, overrides)
        (self.dir / "config.toml").write_text(composed.to_toml())
        self.policy = load_policy(composed.config, torch.device("cpu"))
        randomise_adapter(self.policy)
        self.inputs = batch(load_tokenizer(composed.config))

    def keep(self, step=2, reason="step 3: the loss is nan, the gradient norm nan", size=2):
        return keep_batch(
            self.dir, step=step, reason=reason, inputs=self.inputs, model=self.policy, micro_batch_size=size
        )


def batch(tokenizer):
    ids = [[*tokenizer.hf.encode(text), tokenizer.hf.eos_token_id] for text in TEXTS]
    prompt, width = tokenizer.hf.encode("1+1="), max(map(len, ids))
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    return {
        "prompt_ids": torch.tensor([prompt] * len(ids)),
        "prompt_mask": torch.ones(len(ids), len(prompt), dtype=torch.long),
        "completion_ids": torch.tensor([row + [0] * (width - len(row)) for row in ids]),
        "completion_mask": mask,
        "advantages": mask * torch.tensor([0.5, -0.5, 0.25, -1.0, 1.0])[:, None],
        "sampling_logprobs": mask * -1.0,
        "num_items_in_batch": mask.sum(),
    }


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_a_finite_batch_is_said_to_be_and_its_rows_add_up_to_its_loss(run):
    """The loss is a sum over completions, however they are split: here two at a time, and one at a time."""
    found = replay(run.keep())
    assert (found.first, found.to_blame, found.module) == ("", [], "")
    assert found.loss == pytest.approx(math.fsum(row.loss for row in found.rows), rel=1e-5)
    assert found.grad_norm == pytest.approx(math.hypot(*(g.norm for g in found.gradients)), rel=1e-5)
    assert 0 < found.grad_norm <= sum(row.grad_norm for row in found.rows) * (1 + 1e-6)
    assert all(row.text.startswith(text) for text, row in zip(TEXTS, found.rows, strict=True))
    assert [row.num_tokens for row in found.rows] == run.inputs["completion_mask"].sum(dim=1).tolist()


def test_an_infinite_advantage_names_its_row(run):
    run.inputs["advantages"][3, 0] = math.inf
    found = replay(run.keep())
    assert found.first == "inputs"
    assert [(bad.name, bad.rows) for bad in found.inputs] == [("advantages", [3])]
    assert found.to_blame == [3]
    assert not math.isfinite(found.loss)
    assert found.logprobs == []


def test_a_weight_that_is_not_a_number_is_named(run):
    name, weight = next((n, p) for n, p in run.policy.named_parameters() if "lora_B" in n)
    weight.data[1, 2] = math.nan
    found = replay(run.keep())
    assert found.first == "weights"
    assert [(bad.name, bad.num_bad, bad.num_values) for bad in found.weights] == [(name, 1, weight.numel())]
    assert found.to_blame == list(range(5))
    assert found.module
    assert name.startswith(found.module)


def test_a_forward_pass_that_overflows_names_module_token_and_text(run):
    """Finite weights, but their product is not: 1e25 · 1e25 in float32."""
    layer = [(n, p) for n, p in run.policy.named_parameters() if "layers.1.mlp.down_proj" in n]
    for _, weight in layer:
        weight.data.fill_(1e25)
    found = replay(run.keep())
    assert (found.first, found.weights) == ("log-probabilities", [])
    assert "layers.1.mlp.down_proj" in found.module
    token = found.logprobs[0]
    assert (token.row, token.position) == (0, 0)
    assert token.before == ""
    assert (token.text + token.after).startswith("12")


def test_a_ratio_that_overflows_is_found_in_the_loss_of_its_row(tmp_path):
    """Off-policy: exp(logp − old) of an old log-probability of −500 is infinite; a negative advantage keeps it."""
    run = Run(tmp_path, **{"algorithm.num_iterations": 2})
    run.inputs["old_per_token_logps"] = run.inputs["sampling_logprobs"].clone()
    run.inputs["old_per_token_logps"][1, 0] = -500.0
    found = replay(run.keep())
    assert (found.first, found.to_blame, found.inputs) == ("loss", [1], [])
    assert {g.name for g in found.gradients if not math.isfinite(g.norm)}
    assert not math.isfinite(found.gradients[0].norm)


def test_a_completion_that_the_step_left_out_is_not_to_blame(tmp_path):
    """Without an advantage it costs no backward pass, except in the first step, where 0 · ∞ is not a number."""
    run = Run(tmp_path, **{"algorithm.num_iterations": 2})
    run.inputs["old_per_token_logps"] = run.inputs["sampling_logprobs"].clone()
    run.inputs["old_per_token_logps"][1, 0] = -500.0
    run.inputs["advantages"][1] = 0.0
    later, first = replay(run.keep(step=2)), replay(run.keep(step=0))
    assert (later.first, [row.row for row in later.rows]) == ("", [0, 2, 3, 4])
    assert (first.first, first.to_blame) == ("loss", [1])


def test_the_command_says_what_began_it_and_json_holds_all_of_it(run, capsys):
    run.inputs["advantages"][3, 0] = math.inf
    file = run.keep()
    assert main(["debug-batch", str(file), "--devices", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "step 3, replayed in float32 on cpu" in text
    assert "then: step 3: the loss is nan" in text
    assert "not finite first: inputs\n  input advantages: row 3\n" in text
    assert "completions with such a loss or gradient: 1 of 5\n    row 3: loss" in text
    assert main(["debug-batch", str(file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["first"], document["to_blame"]) == ("inputs", [3])
    assert document["rows"][3]["loss"] in ("inf", "-inf", "nan")
    assert isinstance(document["rows"][0]["loss"], float)
    assert set(document) == {
        *("file", "step", "reason", "device", "dtype", "first", "to_blame", "inputs", "weights", "module", "logprobs"),
        *("loss", "grad_norm", "rows", "gradients"),
    }


def broken_files(run):
    kept = torch.load(run.keep(), weights_only=True)
    yield "is not a batch that a run kept", "step-9.pt", {"something": 1}
    yield "has format 2, this version reads 1", "step-9.pt", {**kept, "format": 2}
    some = dict(list(kept["weights"].items())[1:])
    yield "has the weights of another model", "step-9.pt", {**kept, "weights": some}


def test_a_file_that_is_none_is_refused_with_the_reason(run, tmp_path, capsys):
    for said, name, content in broken_files(run):
        file = run.dir / "debug" / name
        torch.save(content, file)
        with pytest.raises(ConfigError, match=said):
            replay(file)
    (run.dir / "debug" / "text.pt").write_text("hello")
    with pytest.raises(ConfigError, match="is not a batch that a run kept"):
        replay(run.dir / "debug" / "text.pt")
    alone = tmp_path / "a" / "step-2.pt"
    alone.parent.mkdir()
    alone.write_bytes((run.dir / "debug" / "step-3.pt").read_bytes())
    (tmp_path / "config.toml").unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="is not in its run"):
        replay(alone)
    assert main(["debug-batch", str(run.dir)]) == 2
    assert "kept batches: " in capsys.readouterr().err
    assert main(["debug-batch"]) == 2
    assert "takes one FILE, none was given" in capsys.readouterr().err
