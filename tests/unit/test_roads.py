"""Every road to the terminal passes a door that makes text harmless; found in the source, road by road.

A call that shows text must be given a literal, or what one of the doors made of it. What is looked for here
is the forgotten call of tomorrow; what the doors do is tested elsewhere, and end to end in a pseudo-terminal.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("forge/cli", "forge_tui", "forge/signals.py", "forge/streams.py", "forge/terminal.py")

DOORS = frozenset(
    {"clean", "clean_lines", "safe", "compose", "safe_lines", "pad", "escape", "to_ascii", "dumps", "alert"}
)
"""Functions whose result may be shown; `dumps` writes ASCII."""
SHOWN_FIRST = frozenset(
    {"print", "notify", "Input", "write", "confirm", "prompt", "Text", "Segment", "writelines", "write_line",
     "write_lines", "append_tokens", "render_str"}
)  # fmt: skip
"""Calls whose first argument is shown."""
SHOWN_BY_NAME = frozenset(
    {"border_subtitle", "border_title", "end", "help", "label", "message", "placeholder", "prompt", "sep",
     "sub_title", "subtitle", "text", "title", "tooltip", "value"}
)  # fmt: skip
"""Arguments by name of such calls that are shown too; `prompt` and `help` are, whatever takes them."""
FORBIDDEN = frozenset(
    {"Static", "Label", "Log", "RichLog", "Markdown", "DataTable", "OptionList", "Button", "Tree",
     "from_ansi", "from_markup", "add_row", "add_rows", "add_column", "add_columns", "add_option",
     "add_options", "echo", "secho", "set_window_title", "Content", "panic", "assemble", "Panel", "Rule",
     "Table", "Checkbox", "RadioButton", "TabPane", "Collapsible", "Select", "SelectionList", "Digits",
     "Placeholder", "Pretty", "TextArea", "Link", "warn"}
)  # fmt: skip
"""What reads markup, or lets control sequences through; none of it is needed here."""
SHOWN_WHEN_SET = frozenset(
    {"border_title", "border_subtitle", "tooltip", "placeholder", "sub_title", "title", "plain"}
)
LINES = frozenset({"Text", "safe", "compose", "pad", "join_ends"})
"""What makes a `Text`, to which more can be added."""

EXCEPTIONS = {
    ("forge/cli/validate.py", "_put"): "its table has cells that are cleaned where they are made",
    ("forge/cli/validate.py", "_table"): "cells are `Text` of what is cleaned, and no markup is read in them",
    ("forge/cli/console.py", "put_text"): "a program gets it as it is; a terminal gets it cleaned",
    ("forge/streams.py", "writelines"): "the last door itself, whose `write` cleans",
    ("forge/terminal.py", "write_now"): "sequences that put a terminal right, and what `alert` made",
    ("forge/cli/console.py", "put_table"): "its cells are cleaned by `table`, which aligns what is seen",
    ("forge_tui/widgets/ink.py", "strip"): "the plain text of a line that is a `Text` already",
    (
        "forge_tui/charts/widget.py",
        "render_line",
    ): "cells of a chart, which holds drawing characters and numbers",
    ("forge_tui/terminal.py", "flush"): "frames of the screen, whose widgets clean what stands in them",
    ("forge_tui/terminal.py", "_try_write"): "what `show` has cleaned, and sequences of the terminal's own",
}
"""(file, function) to the reason why what it shows is harmless."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
RAW_ITSELF = ast.Name("<raw>")
"""Stands for what is never harmless."""


class Module:
    """One source file, with what its names stand for."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.tree = ast.parse(source)
        self.functions = {node.name: node for node in ast.walk(self.tree) if isinstance(node, Function)}
        imports = [node for node in ast.walk(self.tree) if isinstance(node, ast.ImportFrom)]
        self.aliases = {each.asname: each.name for node in imports for each in node.names if each.asname}

    def roads(self) -> Iterator[tuple[str, int]]:
        """The function and line of everything that shows, or may show, what no door has cleaned."""
        for scope in [self.tree, *self.functions.values()]:
            for node in _own(scope):
                if any(not self.harmless(each, scope) for each in self._shown(node, scope)):
                    yield getattr(scope, "name", ""), node.lineno  # type: ignore[attr-defined]

    def _shown(self, node: ast.AST, scope: ast.AST) -> Iterable[ast.expr]:
        """The expressions that a node shows."""
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            return self._set(node, scope)
        if not isinstance(node, ast.Call):
            return ()
        name = self._called(node)
        if name in FORBIDDEN:
            return (RAW_ITSELF,)
        if name == "Console" and not any(keyword.arg == "file" for keyword in node.keywords):
            # Rich would draw through the last door, which shows its colours as text; see `streams.inside`.
            return (RAW_ITSELF,)
        if name in ("add_argument", "add", "Option", "Argument", "Typer", "command"):
            # Help of the command line's own making; its literals need no door.
            return ()
        if name in ("map", "partial") and node.args and _plain(node.args[0]) in ("print", "notify", "echo"):
            return (RAW_ITSELF,)
        if name == "setattr" and len(node.args) == 3:
            which = node.args[1]
            known = isinstance(which, ast.Constant) and which.value not in SHOWN_WHEN_SET
            return () if known else node.args[2:]
        by_name = SHOWN_BY_NAME if name in SHOWN_FIRST else {"help", "prompt"}
        return [*self._placed(node, name, scope), *(k.value for k in node.keywords if k.arg in by_name)]

    def _set(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign, scope: ast.AST) -> Iterable[ast.expr]:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        each = [inner for target in targets for inner in ast.walk(target)]
        shown = any(isinstance(target, ast.Attribute) and target.attr in SHOWN_WHEN_SET for target in each)
        if isinstance(node, ast.AugAssign) and self._is_line(node.target, scope):
            shown = True
        return () if not shown or node.value is None else (node.value,)

    def _placed(self, node: ast.Call, name: str, scope: ast.AST) -> list[ast.expr]:
        """Arguments without a name that are shown."""
        if name == "write" and _called_on(node) == "os":
            return node.args[1:]
        if name == "write" and _called_on(node) in ("registry", "durable"):
            # A change of the registry or of a file, which shows nothing.
            return []
        if name == "update" and len(node.args) == 1 and not node.keywords:
            # What a widget shows, where it is not a dictionary or a digest.
            return node.args
        if name in ("append", "insert_text") and (len(node.args) == 2 or self._is_line(node.func, scope)):
            # A list takes one; this is a `Text`, with or without a style.
            return node.args[:1]
        if name == "print":
            return node.args
        return node.args[:1] if name in SHOWN_FIRST else []

    def _is_line(self, node: ast.expr, scope: ast.AST) -> bool:
        """Whether a name, or what a method is called on, is a `Text`."""
        on = node.value if isinstance(node, ast.Attribute) else node
        if not isinstance(on, ast.Name):
            return isinstance(on, ast.Call) and self._called(on) in LINES
        if isinstance(scope, Function):
            for argument in (*scope.args.args, *scope.args.kwonlyargs):
                if argument.arg == on.id and _plain(argument.annotation) == "Text":
                    return True
        return any(isinstance(v, ast.Call) and self._called(v) in LINES for v in _given(on.id, scope))

    def _called(self, node: ast.Call) -> str:
        name = _plain(node.func)
        return self.aliases.get(name, name)

    def harmless(self, node: ast.expr, scope: ast.AST, depth: int = 4) -> bool:
        """Whether an expression can only be a literal or what a door gave back."""

        def again(each: ast.expr) -> bool:
            return self.harmless(each, scope, depth - 1)

        if depth == 0:
            return False
        match node:
            case ast.Constant():
                return True
            case ast.JoinedStr():
                return all(again(part.value) for part in node.values if isinstance(part, ast.FormattedValue))
            case ast.BinOp(op=ast.Mult(), left=ast.Constant(value=str())):
                return True
            case ast.Subscript(value=ast.Name(id=name)):
                return name.isupper()
            case ast.BinOp():
                return again(node.left) and again(node.right)
            case ast.IfExp():
                return again(node.body) and again(node.orelse)
            case ast.Starred() | ast.Attribute(attr="plain"):
                return again(node.value)
            case ast.Name():
                return self._name(node.id, scope, depth)
            case ast.Call():
                return self._result(node, scope, depth)
        return False

    def _name(self, name: str, scope: ast.AST, depth: int) -> bool:
        for place in (scope, self.tree):
            given = list(_given(name, place))
            if given:
                return all(self.harmless(value, place, depth - 1) for value in given)
        # A constant of the text module, such as the ellipsis.
        return name.isupper()

    def _result(self, node: ast.Call, scope: ast.AST, depth: int) -> bool:
        name = self._called(node)
        if name in DOORS:
            return True
        if name == "Text" and node.args:
            return self.harmless(node.args[0], scope, depth - 1)
        if name == "get" and len(node.args) == 2 and _called_on(node).isupper():
            return self.harmless(node.args[1], scope, depth - 1)
        if name in ("encode", "replace", "expand_tabs") and isinstance(node.func, ast.Attribute):
            return self.harmless(node.func.value, scope, depth - 1)
        if name == "join" and len(node.args) == 1:
            (parts,) = node.args
            if isinstance(parts, ast.Call) and self._called(parts) == "map":
                return isinstance(parts.args[0], ast.Name) and parts.args[0].id in DOORS
            if isinstance(parts, ast.GeneratorExp | ast.ListComp):
                return self.harmless(parts.elt, scope, depth - 1)
        if isinstance(node.func, ast.Name) and (made := self.functions.get(node.func.id)) is not None:
            returned = [each.value for each in ast.walk(made) if isinstance(each, ast.Return) and each.value]
            return bool(returned) and all(self.harmless(each, made, depth - 1) for each in returned)
        return False


def _own(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope, functions inside it left out."""
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, Function):
            yield child
            yield from _own(child)


def _given(name: str, place: ast.AST) -> Iterator[ast.expr]:
    """What a name is given in a scope, or has added to it; what it takes from a loop is harmless nowhere."""
    for node in ast.walk(place):
        match node:
            case ast.Assign(targets=targets, value=value):
                if any(isinstance(each, ast.Name) and each.id == name for each in targets):
                    yield value
            case (
                ast.AnnAssign(target=ast.Name(id=found), value=value)
                | ast.AugAssign(target=ast.Name(id=found), value=value)
                | ast.NamedExpr(target=ast.Name(id=found), value=value)
            ):
                if found == name and value is not None:
                    yield value
            case ast.For(target=target) | ast.AsyncFor(target=target) | ast.comprehension(target=target):
                if any(isinstance(each, ast.Name) and each.id == name for each in ast.walk(target)):
                    yield RAW_ITSELF


def _plain(node: ast.expr | None) -> str:
    """The last name of an expression."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _called_on(node: ast.Call) -> str:
    on = getattr(node.func, "value", None)
    return on.attr if isinstance(on, ast.Attribute) else getattr(on, "id", "")


def modules() -> Iterator[Module]:
    """Every source file that a terminal may see something of."""
    for place in PLACES:
        top = ROOT / place
        for path in sorted(top.rglob("*.py")) if top.is_dir() else [top]:
            yield Module(str(path.relative_to(ROOT)), path.read_text("utf-8"))


def test_every_road_to_the_terminal_passes_a_door() -> None:
    found = {(module.name, function): line for module in modules() for function, line in module.roads()}
    raw = sorted(f"{name}:{line} in {function}" for (name, function), line in found.items()
                 if (name, function) not in EXCEPTIONS)  # fmt: skip
    assert raw == []
    assert sorted(EXCEPTIONS.keys() - found.keys()) == [], "an exception that is not needed any more"


RAW = [
    "def f(name): print(name)",
    "def f(name): print(f'session {name}')",
    "def f(app, error): app.notify(str(error))",
    "def f(app, error): app.notify(f'{error}', markup=False)",
    "def f(name): return Static(name)",
    "def f(name): return Static(clean(name))",
    "def f(box, name): box.border_title = name",
    "def f(line, name): line.append(name, 'strong')",
    "def f(stream, name): stream.write('\\x1b]0;' + name)",
    "def f(name): os.write(1, name.encode())",
    "def f(row):\n    shown = clean(row.name)\n    shown = row.note\n    print(shown)",
    "def f(x): print(g(x))\ndef g(x):\n    if x: return 'a'\n    return x",
    "def f(names): print(', '.join(names))",
    "def f(hit, reason): return Hit(1, 2, 3, help=reason)",
    "def f(name): return Text.from_markup(f'[b]{name}[/]')",
    "def f(question): typer.confirm(question)",
    "def f(): return Console(stderr=True)",
    "def f(name):\n    line = compose('a')\n    line.append(name)",
    "def f(name): return Text('a').append(name)",
    "def f(line: Text, name): line.append(name)",
    "def f(name):\n    line = compose()\n    line += name",
    "def f(line, name): line.plain = name",
    "def f(line, parts): line.append_tokens(parts)",
    "def f(parts): return Text.assemble(*parts)",
    "def f(pane, name): pane.update(name)",
    "def f(pane, name): pane.update(f'run {name}')",
    "def f(app, name): app.notify('done', title=name)",
    "def f(app, name): app.notify(message=name)",
    "def f(name): print('done', end=name)",
    "def f(name): return Input('', placeholder=name)",
    "def f(name): return Input(value=name)",
    "def f(name): return Text(text=name)",
    "def f(table, name): table.add_row('a', name)",
    "def f(name): return Table(title=name)",
    "def f(table, name): table.add_column(name)",
    "def f(box, name): box.border_title += name",
    "def f(box, name): box.border_title, box.border_subtitle = 'a', name",
    "def f(box, name): box.border_title: str = name",
    "def f(box, name): setattr(box, 'border_title', name)",
    "def f(box, which, name): setattr(box, which, name)",
    "def f(name):\n    shown = 'a'\n    shown += name\n    print(shown)",
    "def f(name):\n    shown = 'a'\n    if (shown := name): print(shown)",
    "def f(names):\n    shown = 'a'\n    for shown in names: print(shown)",
    "def f(name): print('run {}'.format(name))",
    "def f(name): print('run %s' % name)",
    "def f(name): print(f'{clean(name)}: {name}')",
    "def f(name): print(name or 'none')",
    "def f(names): list(map(print, names))",
    "def f(name): return partial(print, name)",
    "from rich.text import Text as T\ndef f(name): return T(name)",
    "def f(stream, lines): stream.writelines(lines)",
    "def f(names): print(NAMES.get(1, names))",
    "def f(name): warnings.warn(name)",
]
HARMLESS = [
    "print('done')",
    "def f(name): print(clean(name), file=sys.stderr)",
    "def f(name): print(f'session {clean(name)}')",
    "def f(names): print('\\n'.join(map(clean, names)))",
    "def f(names): print(', '.join(clean(name) for name in names))",
    "def f(stream, name): stream.write(f'\\r{clean(name)}\\x1b[K')",
    "def f(x): print(g(x))\ndef g(x):\n    return clean(x) if x else 'nothing'",
    "def f(rows, row): rows.append(row)",
    "def f(box, name): box.border_title = safe(name)",
    "_SHOW = b'\\x1b[?25h'\ndef f(): os.write(2, _SHOW)",
    "def f(engine, change): engine.registry.write(change)",
    "def f(name):\n    line = compose('a')\n    line.append(clean(name))\n    line += safe(name)",
    "def f(app, name): app.notify(clean(name), title='a')",
    "def f(app, name): app.notify(clean(name), title=clean(name))",
    "def f(n): print(' ' * n)",
    "def f(n): print(NAMES[n])",
    "def f(n): print(NAMES.get(n, ''))",
    "def f(bar, n): bar.update(n, completed=1)",
    "def f(name):\n    shown = 'a'\n    shown += clean(name)\n    print(shown)",
    "def f(box, name): setattr(box, 'cursor', name)",
]


@pytest.mark.parametrize("source", RAW)
def test_a_raw_road_is_found(source: str) -> None:
    assert list(Module("x.py", source).roads())


@pytest.mark.parametrize("source", HARMLESS)
def test_a_road_through_a_door_is_let_be(source: str) -> None:
    assert list(Module("x.py", source).roads()) == []


UNPICKLING = frozenset({"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"})
LOADERS = frozenset({"torch.load", "torch.jit.load", "jit.load", "torch.hub.load", "np.load", "numpy.load"})
UNSAFE = frozenset(
    {"unsafe_load", "unsafe_load_all", "full_load", "read_pickle", "Unpickler", "load_state_dict_from_url"}
)
RUNNING = frozenset({"eval", "exec", "compile", "__import__"})


def runs_what_it_reads(source: str) -> list[int]:
    """Lines that could run a program out of a file: pickles in whatever dress, and code from text."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            if any(name.partition(".")[0] in UNPICKLING for name in names):
                lines.append(node.lineno)
        elif isinstance(node, ast.Call):
            name = _plain(node.func)
            unsafe_load = ast.unparse(node.func) in LOADERS or name in UNSAFE
            unsafe_load |= any(
                keyword.arg in ("allow_pickle", "trust_remote_code") and getattr(keyword.value, "value", True)
                for keyword in node.keywords
            )
            if unsafe_load or (isinstance(node.func, ast.Name) and name in RUNNING):
                lines.append(node.lineno)
    return lines


def test_nothing_that_is_read_is_ever_run() -> None:
    found = {}
    for package in ("forge", "forge_tui"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if lines := runs_what_it_reads(path.read_text("utf-8")):
                found[str(path.relative_to(ROOT))] = lines
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=True)",
        "yaml.unsafe_load(text)",
        "eval(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_what_would_run_it_is_found(source: str) -> None:
    assert runs_what_it_reads(source)
