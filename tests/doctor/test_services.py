"""What runs talk to, as real servers on this machine: the hub, the tracker, its store."""

import os
import socket
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from retrain.config.schema import RunConfig
from retrain.doctor import services
from retrain.doctor.finding import Check, run_check
from retrain.doctor.machine import Machine
from tests.hub_server import serving
from tests.tracking.faulty_server import faulty_server

SECRET = "hf_do_not_show_this"


@pytest.fixture(autouse=True)
def nothing_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "MLFLOW_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def looked(check, subject):
    (found,) = run_check(Check("it", check), subject, family="services")
    return found


def tracker(uri):
    config = RunConfig()
    return looked(services.tracker, replace(config, logging=replace(config.logging, tracking_uri=uri)))


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


# --- the hub --------------------------------------------------------------------------------------------------------


def test_the_hub_that_hf_endpoint_names_is_asked_and_its_clock_read(tmp_path, monkeypatch):
    with serving(tmp_path) as (hub, _):
        monkeypatch.setenv("HF_ENDPOINT", hub)
        machine = Machine()
        found = looked(services.hub, machine)
    assert (found.verdict, hub in found.found) == ("ok", True)
    theirs, ours = machine.hub_time
    assert abs(theirs - ours) < 60


def test_a_hub_that_is_not_there_is_a_warning_only_where_something_of_it_is_needed(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"http://user:{SECRET}@127.0.0.1:{free_port()}")
    found = looked(services.hub, Machine())
    assert found.verdict == "warn"
    assert "cannot be reached" in found.found
    assert SECRET not in found.found + found.fix
    assert looked(services.hub, Machine(needs_hub=False)).verdict == "skipped"


def test_a_hub_that_does_not_answer_is_waited_for_only_so_long(monkeypatch):
    monkeypatch.setattr(services, "SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        found = looked(services.hub, Machine())
    assert (found.verdict, "nothing within 0.5 s" in found.found) == ("warn", True)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("port", [":0", ""])
def test_a_password_in_an_address_is_used_and_never_in_an_error(tmp_path, monkeypatch, port):
    with serving(tmp_path) as (hub, _):
        monkeypatch.setenv("HF_ENDPOINT", hub.replace("//", f"//user:{SECRET}@"))
        assert looked(services.hub, Machine()).verdict == "ok"
    monkeypatch.setenv("HF_ENDPOINT", f"http://user:{SECRET}@no.such.host.invalid{port}")
    found = looked(services.hub, Machine())
    assert (found.verdict, SECRET in found.found + found.fix) == ("warn", False)


def test_offline_the_hub_is_not_asked(tmp_path, monkeypatch):
    with serving(tmp_path) as (hub, _):
        monkeypatch.setenv("HF_ENDPOINT", hub)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        machine = Machine()
        assert looked(services.hub, machine).verdict == "skipped"
    assert machine.hub_time is None


def test_a_token_is_told_of_and_never_shown(tmp_path, monkeypatch):
    assert "none" in looked(services.token, Machine()).found
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(SECRET)
    found = looked(services.token, Machine())
    assert str(tmp_path / "hf" / "token") in found.found
    monkeypatch.setenv("HF_TOKEN", SECRET)
    again = looked(services.token, Machine())
    assert again.found == "HF_TOKEN is set"
    assert SECRET not in found.found


def test_the_cache_is_counted_where_the_hub_keeps_it(tmp_path, monkeypatch):
    (tmp_path / "hf" / "hub" / "models--team--small").mkdir(parents=True)
    found = looked(services.cache, Machine())
    assert f"{tmp_path / 'hf' / 'hub'}: 1 model and 0 datasets" in found.found
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert f"{tmp_path / 'elsewhere'}: 0 models" in looked(services.cache, Machine()).found
    assert not (tmp_path / "elsewhere").exists()


# --- the tracker ----------------------------------------------------------------------------------------------------


def test_the_schema_versions_are_those_that_mlflow_s_own_migrations_lead_to():
    import mlflow.store.db_migrations as migrations

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    scripts = ScriptDirectory.from_config(config)
    known, newest = services.revisions()
    assert newest == set(scripts.get_heads())
    assert known == {script.revision for script in scripts.walk_revisions()}


def test_the_schema_of_a_store_is_read_and_the_file_is_left_as_it_is(tmp_path):
    known, newest = services.revisions()
    file = tmp_path / "mlflow.db"
    assert tracker(f"sqlite:///{file}").found == f"{file}: made by the first run"
    cases = {
        min(newest): ("ok", "up to date"),
        min(known - newest): ("ok", "brought up to date by the next run"),
        "ffffffffffff": ("warn", "a newer one wrote it"),
    }
    for version, (verdict, said) in cases.items():
        file.unlink(missing_ok=True)
        with sqlite3.connect(file) as connection:
            connection.execute("PRAGMA journal_mode = WAL")  # a reader of such a file may leave others beside it
            connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
            connection.execute("INSERT INTO alembic_version VALUES (?)", (version,))
        connection.close()
        before = file.read_bytes(), file.stat().st_mtime_ns
        found = tracker(f"sqlite:///{file}")
        assert (found.verdict, said in found.found) == (verdict, True)
        assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_file_that_is_no_store_is_warned_of(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"this is not a database at all" * 100)
    found = tracker(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert (found.verdict, "is not a store of MLflow" in found.found) == ("warn", True)


def test_a_server_says_its_version_and_one_that_refuses_or_is_slow_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(services, "SECONDS", 2.0)
    with faulty_server(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", monkeypatch) as (uri, gate):
        found = tracker(uri)
        assert (found.verdict, found.found.startswith(f"{uri}: MLflow 3.")) == ("ok", True)
        gate.refuse = {"health": "401 UNAUTHORIZED"}
        found = tracker(uri)
        assert (found.verdict, "MLFLOW_TRACKING_USERNAME" in found.fix) == ("warn", True)
        gate.refuse, gate.delay = {}, {"health": 4.0}
        assert "nothing within 2 s" in tracker(uri).found


def test_a_server_that_is_not_there_is_a_warning_without_its_password():
    found = tracker(f"http://user:{SECRET}@127.0.0.1:{free_port()}")
    assert found.verdict == "warn"
    assert "Training goes on without it" in found.found
    assert SECRET not in found.found + found.fix
    found = tracker(f"postgresql://user:{SECRET}@127.0.0.1:{free_port()}/runs")
    assert (found.verdict, SECRET in found.found) == ("warn", False)


def test_a_uri_that_mlflow_does_not_write_to_fails_and_none_is_off():
    assert tracker("none").found == "off"
    assert (tracker("ftp://host").verdict, tracker("none").verdict) == ("fail", "ok")
