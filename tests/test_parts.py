"""What a backend of one's own asks for is made for it, and nothing else; what it says of itself is held to."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from retrain import parts, registry, run
from retrain.backends.options import LOCAL
from retrain.capabilities import PARTS, Capabilities, Prices, Usage
from retrain.config import compose
from retrain.errors import ConfigError
from retrain.parts import NotMade

TOY = Path(__file__).parent / "campaign" / "toy_backend.py"
TOML = '[backend]\nbackend = "toy_backend:Toy"\n{}\n[logging]\ntracking_uri = "none"\n'


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Compose a TOML of the toy backend, which lies beside it; `backend` is the rest of that section."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(TOY, tmp_path)

    def composed(backend="", *arguments):
        (tmp_path / "mini.toml").write_text(TOML.format(backend))
        return compose(Path("mini.toml"), arguments)

    return composed


def test_nothing_is_made_for_a_backend_that_asks_for_nothing(toy):
    built = run.build(toy())
    assert built.job.data == ()
    assert built.made.dataset == {}
    for part in ("tokenizer", "reward", "baseline", "pipeline"):
        with pytest.raises(AttributeError, match=f"no {part} was made"):
            _ = getattr(built.job, part).anything
    with pytest.raises(TypeError, match="no baseline was made"):
        built.job.baseline(None, None)
    built.made.close()


def test_building_and_training_it_imports_no_tensor_library(toy, tmp_path):
    toy("", "training.max_steps=2")
    code = (
        "import sys; from pathlib import Path; from retrain import run; from retrain.config import compose\n"
        "run.run(compose(Path('mini.toml'), ['training.max_steps=2']))\n"
        "heavy = {'torch', 'transformers', 'datasets', 'trl', 'peft', 'numpy', 'pyarrow', 'safetensors', 'mlflow'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "[]\n", done.stderr


def test_options_of_a_backend_of_ones_own_are_held_to_its_dataclass(toy):
    assert run.build(toy("options = { seconds = 1 }")).job.backend.options.seconds == 1
    with pytest.raises(ConfigError, match=r'backend "toy_backend:Toy" has no option secods\n.*fault, seconds, price'):
        run.build(toy("options = { secods = 1 }"))
    with pytest.raises(ConfigError, match="option fault = 3 is not of type str"):
        run.build(toy("options = { fault = 3 }"))


def test_a_backend_that_takes_no_options_is_given_none(toy):
    config = toy("options = { a = 1 }").config
    assert [p.message for p in parts.wrong_options(config, Capabilities())] == [
        'backend "toy_backend:Toy" takes no options, a is set'
    ]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("Toy = 3", "is no backend: it needs capabilities"),
        ("class Toy:\n    capabilities = 'all'", "is no backend: it needs capabilities"),
        ("import no_such_module", "importing toy_backend failed: ModuleNotFoundError"),
        ("class Other: pass", "has no attribute Toy"),
    ],
)
def test_what_is_no_backend_is_refused_before_anything_is_on_disk(toy, tmp_path, source, said):
    composed = toy()
    (tmp_path / "toy_backend.py").write_text(source)
    sys.modules.pop("toy_backend", None)
    with pytest.raises(ConfigError, match=said):
        run.run(composed)
    assert {path.name for path in tmp_path.iterdir()} <= {"mini.toml", "toy_backend.py", "__pycache__"}


def test_a_module_that_is_nowhere_is_refused_with_its_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mini.toml").write_text(TOML.format("").replace("toy_backend", "toy_backnd_x"))
    with pytest.raises(ConfigError, match=r"mini.toml:2: backend.backend = .*: there is no module toy_backnd_x"):
        compose(Path("mini.toml"))


def test_what_a_backend_needs_is_named_with_what_installs_it(toy, monkeypatch):
    config = toy().config
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("peft", "fees") else found(name))
    [local] = parts.not_installed(config, LOCAL)
    assert (local.message, local.hint) == (
        'backend "toy_backend:Toy" needs peft, not installed here', 'pip install "retrain[local]"',
    )  # fmt: skip
    [own] = parts.not_installed(config, Capabilities(parts=frozenset(), modules=("json", "fees")))
    assert own.hint == "pip install fees"
    assert parts.not_installed(config, Capabilities(parts=frozenset(), modules=("json",))) == []


def test_capabilities_are_checked_when_they_are_made():
    assert Capabilities().parts == set(PARTS)
    with pytest.raises(ValueError, match="a job has no rewards"):
        Capabilities(parts=frozenset({"rewards"}))
    with pytest.raises(ValueError, match="credit needs a tokenizer"):
        Capabilities(parts=frozenset({"credit"}))


def test_the_local_backend_is_asked_without_importing_it():
    ask = "registry.capabilities('local', places=())"
    code = f"import sys; from retrain import registry; {ask}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
    assert registry.capabilities("local", places=()) is LOCAL


def test_a_price_is_for_a_million_tokens_of_each_kind():
    prices = Prices(currency="USD", prompt=1.0, sampled=10.0, trained=100.0)
    assert prices.of(Usage(prompt=3e6, sampled=2e6, trained=1e6)) == 3 + 20 + 100
    assert prices.of(Usage(prompt=0, sampled=1, trained=0)) == pytest.approx(1e-5)


def test_a_part_that_was_not_made_can_be_closed_and_copied():
    import copy

    NotMade("reward").close()
    assert copy.copy(NotMade("reward")).part == "reward"
