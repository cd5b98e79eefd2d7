"""A group of commands whose commands are the files of a folder."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any

import click


class FolderGroup(click.Group):
    """A group that finds its commands by file name: `NAME.py` holds the click command `command`.

    An underscore in a file's name is a hyphen in the command's; `folder` is the package.
    """

    def __init__(self, *args: Any, folder: ModuleType, **options: Any) -> None:
        super().__init__(*args, **options)
        self.folder = folder

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        files = (module.name for module in pkgutil.iter_modules(self.folder.__path__))
        return sorted(name.replace("_", "-") for name in files if not name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the file of one command and return it; None where there is no such file."""
        if cmd_name not in self.list_commands(ctx):
            return None
        file = cmd_name.replace("-", "_")
        command: click.Command = importlib.import_module(f"{self.folder.__name__}.{file}").command
        return command
