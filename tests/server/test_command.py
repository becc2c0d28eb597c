"""What the command refuses before a model is loaded."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from dpg_fast.cli.app import app


def test_what_the_command_refuses(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# nothing\n")
    for words in (["--api-keys", str(tmp_path / "keys")], ["--base-model", "x"], ["--name", "a@b"]):
        result = CliRunner().invoke(app, ["serve", *words])
        assert result.exit_code == 2 and result.output.startswith("dpg-fast serve: "), result.output
