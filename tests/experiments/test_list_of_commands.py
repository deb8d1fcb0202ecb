"""``python -m experiments`` lists every command with what it is for."""

import subprocess
import sys
from pathlib import Path

from experiments import __main__ as listing

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
