"""``python -m experiments`` lists every command, and ``--help`` says what will be used."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import __main__ as listing
from experiments.common.run import command_line

ROOT = Path(__file__).parents[2]


def test_every_command_is_listed_once():
    listed = [name for names in listing.TOPICS.values() for name in names]
    assert sorted(listed) == sorted(listing.commands())


def test_the_list_says_how_to_run_each():
    command = [sys.executable, "-m", "experiments"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    for name, line in listing.commands().items():
        assert line.endswith(".")
        assert f"  {name:18} {line}\n" in ended.stdout
    assert "python -m experiments.NAME" in ended.stdout
    assert ended.stderr == ""


@pytest.mark.parametrize("name", [name for names in listing.TOPICS.values() for name in names])
def test_help_shows_no_default_that_is_not_used(name, capsys):
    module = importlib.import_module(f"experiments.{name}")
    if not hasattr(module, "Config"):
        pytest.skip("has no options")
    with pytest.raises(SystemExit):
        command_line.run(module.main, module.Config, ["--help"])
    said = capsys.readouterr().out
    assert "--help" in said
    assert "default: None" not in said
