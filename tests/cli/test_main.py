import subprocess
import sys

import pytest

from vq.cli.main import COMMANDS, main


def test_overview_names_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name}" in shown for name in COMMANDS)
    assert main([]) == 2
    assert main(["--version"]) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"usage: vq {command}" in capsys.readouterr().out


def test_unknown_commands_and_specs_name_the_nearest(capsys):
    assert main(["compres"]) == 2
    assert "did you mean compress" in capsys.readouterr().err
    assert main(["codebooks", "treliss(bits=2)"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("vq: error: unknown codebook family 'treliss'")
    assert "did you mean trellis" in error and error.count("\n") == 1


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    import vq.cli.info

    def broken(_args):
        raise ZeroDivisionError

    monkeypatch.setattr(vq.cli.info, "run", broken)
    with pytest.raises(ZeroDivisionError):
        main(["info"])


def test_help_is_quick_and_loads_no_torch():
    code = (
        "import sys; from vq.cli.main import main; main(['--help']); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode
        == 0
    )


def test_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "vq", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("vq ")
