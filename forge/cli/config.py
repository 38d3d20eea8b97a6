"""`forge config`: what can be configured, and whether a file is fine.

The group is part of `forge --help`, so what it works with is imported inside its commands.
"""

from __future__ import annotations

import typer

from forge.cli.console import put, put_json, put_table, put_text, say
from forge.cli.exits import ends
from forge.cli.options import Home, Overrides, Source

config_app = typer.Typer(
    help="See presets, write your own configuration, and check it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="""\b
examples:
  forge config presets
  forge config show tiny > mine.yaml
  forge config check mine.yaml
  forge config settings --set retention.max_age_days=90
""",
)


@config_app.command(
    epilog="""\b
examples:
  forge config presets
"""
)
@ends
def presets() -> int:
    """List the presets, and what each is for."""
    from forge.config import preset_names

    put_table([[name, _purpose(name)] for name in preset_names()])
    return 0


@config_app.command(
    epilog="""\b
examples:
  forge config show tiny > mine.yaml
  forge config show tiny --set seed=7
"""
)
@ends
def show(source: Source, overrides: Overrides = None) -> int:
    """Print a whole configuration as YAML."""
    from forge.config import dump_yaml, load_config

    text = dump_yaml(load_config(source, overrides or []))
    put_text(text)
    return 0


@config_app.command(
    epilog="""\b
examples:
  forge config schema > forge.schema.json
"""
)
@ends
def schema() -> int:
    """Print the JSON Schema of a configuration file, for an editor."""
    from forge.config import json_schema

    put_json(json_schema())
    return 0


@config_app.command(
    epilog="""\b
examples:
  forge config check mine.yaml
  forge config check mine.yaml --set pretrain.steps=200
"""
)
@ends
def check(source: Source, overrides: Overrides = None) -> int:
    """Check a configuration file, and list everything that is wrong with it."""
    from forge.config import load_config

    config = load_config(source, overrides or [])
    put(f"{source}: fine; phases {', '.join(config.phases)}")
    return 0


@config_app.command(
    epilog="""\b
examples:
  forge config settings
  forge config settings --set retention.auto=false
  forge config settings --set retention.max_total_gb=200 --set 'retention.keep_tags=[paper]'
  forge config settings --set 'notify.on_finish=curl -d "$FORGE_SESSION is $FORGE_STATE" ntfy.sh/me'
"""
)
@ends
def settings(overrides: Overrides = None, home: Home = None) -> int:
    """Show the settings of the home, that hold for all its sessions, or change some of them.

    They are about cleaning up and about notices. What a session computes is in its own configuration.
    """
    from forge.config import change_settings, dump_yaml, load_settings
    from forge.home import prepare_home, resolve_home

    found = resolve_home(home)
    if overrides:
        values = change_settings(prepare_home(found).settings, overrides)
    else:
        values = load_settings(found.settings)
    say(f"{found.settings}{'' if found.settings.exists() else ' (not there: these are the defaults)'}")
    text = dump_yaml(values)
    put_text(text)
    return 0


def _purpose(name: str) -> str:
    """The comment at the top of a preset."""
    from importlib import resources
    from itertools import takewhile

    preset = resources.files("forge.config").joinpath("presets", f"{name}.yaml")
    comment = takewhile(lambda line: line.startswith("#"), preset.read_text("utf-8").splitlines())
    return " ".join(line.lstrip("# ").rstrip() for line in comment)
