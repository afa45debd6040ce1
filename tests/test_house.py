"""What the documents say of the house, held against the house."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from service import config
from service.cli.main import cli

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for package in ("streamer", "models", "service") for path in (ROOT / package).rglob("*.py"))
COMMANDS = {
    *("demo", "run", "process", "monitor", "subscribe", "pick", "simulate", "motion", "ctf", "quality"),
    *("super-resolve", "denoise", "gain", "movies", "models", "journal", "init", "check-config"),
}


def every_command(group=cli, words=()):
    """Every command and group with the words that lead to it."""
    for name, command in group.commands.items():
        yield (*words, name), command
        if isinstance(command, click.Group):
            yield from every_command(command, (*words, name))


def console_lines(document):
    """Commands of the ``console`` blocks of a Markdown file."""
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / document).read_text(), flags=re.S)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_config_toml_is_the_commented_default():
    assert (ROOT / "config.toml").read_text() == config.default_text()


def test_the_default_configuration_is_a_valid_one_and_the_default(tmp_path):
    text = config.default_text()
    (tmp_path / "config.toml").write_text(text)
    assert config.load(tmp_path / "config.toml") == config.Config()
    uncommented = re.sub(r"^# ?(\w+ = )", r"\1", text, flags=re.M)
    (tmp_path / "config.toml").write_text(uncommented)
    config.load(tmp_path / "config.toml")


def test_the_commands_are_those_of_the_contract():
    assert set(cli.commands) == COMMANDS


@pytest.mark.parametrize(("words", "command"), list(every_command()), ids=str)
def test_every_command_explains_itself(words, command):
    found = CliRunner().invoke(cli, [*words, "--help"])
    assert found.exit_code == 0
    assert command.help
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_the_commands_in_the_documents_exist_with_their_options(document):
    for line in console_lines(document):
        program, *words = shlex.split(line)
        assert program in {"streamer", "make"}, line
        if program == "make":
            assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), flags=re.M), line
            continue
        command = cli
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_links_in_the_documents_lead_somewhere():
    for document in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert "://" in target or (document.parent / target).exists(), (document.name, target)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_source_file_is_one_thing(path):
    text = path.read_text()
    assert text.count("\n") <= 350
    assert path.stem not in {"utils", "util", "common", "helpers", "helper", "base", "core", "manager", "misc"}
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text)
    tree = ast.parse(text)
    assert ast.get_docstring(tree) or not text.strip()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno - node.lineno) <= 70, node.name
        # weights are safetensors, records are JSON: nothing that is loaded can run
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not {name.split(".")[0] for name in names} & {"pickle", "marshal", "shelve", "dill", "torchvision"}
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in {"torch.load", "eval", "exec"}
            assert "allow_pickle=True" not in ast.unparse(node)


@pytest.mark.parametrize("name", ["client", "wire.messages", "daemon.loop", "subscribers.monitor", "cli.main"])
def test_it_starts_without_torch(name):
    code = f"import sys, service.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_subscriber_needs_neither_numpy_nor_torch():
    code = "import sys, service.client; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_instance_of_the_unit_runs_a_command_that_exists():
    unit = (ROOT / "systemd" / "streamer@.service").read_text()
    (line,) = re.findall(r"^ExecStart=(.*)$", unit, flags=re.M)
    words = shlex.split(line)
    assert words[1] in cli.commands
    known = {option for parameter in cli.commands[words[1]].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known
