"""Pages of one HTML file: templates, and scripts of several ES modules in one."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import jinja2

from midi.pianoroll import COLORS, GIVEN_COLORS, LOUD, SOFT
from utils import escape, has_mark

# colors of notes and of given notes, soft to loud, and the velocities of the first and the last
PALETTE = {"colors": COLORS, "given": GIVEN_COLORS, "velocities": (SOFT, LOUD)}
FOLDER = Path(__file__).parent
IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([a-z]+)\.js";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const) )", re.MULTILINE)
EXPORTED = re.compile(
    r"^export (?:async )?(?:function|class) (\w+)|^export const (.+)", re.MULTILINE
)


def bundle_script(name: str) -> str:
    """Return the module web/js/NAME.js and all modules that it imports as one script.

    Each module becomes a function that returns its exports. Raises ValueError for other forms of
    import and export than those in web/js.
    """
    parts: dict[str, str] = {}
    _add_module(name, parts)
    return '"use strict";\n' + "".join(parts.values())


def _add_module(name: str, parts: dict[str, str]) -> None:
    """Add a module to `parts`, after the modules that it imports."""
    if name in parts:
        return
    text = (FOLDER / "js" / f"{name}.js").read_text(encoding="utf-8")
    for _, imported in IMPORT.findall(text):
        _add_module(imported, parts)
    exports = [n for pair in EXPORTED.findall(text) for n in _list_names(*pair)]
    body = IMPORT.sub(lambda match: f"const {{{match[1]}}} = module_{match[2]};\n", text)
    body = EXPORT.sub("", body)
    if re.search(r"^\s*(import|export) ", body, re.MULTILINE):
        raise ValueError(f"web/js/{name}.js: only 'import {{...}} from' and 'export' declarations")
    parts[name] = (
        f"const module_{name} = (() => {{\n{body}return {{{', '.join(exports)}}};\n}})();\n"
    )


def _list_names(function: str, constants: str) -> list[str]:
    """Return the name of a function or class, or those in "A = 1, B = 2" of constants."""
    return [function] if function else re.findall(r"(?:^|, )([A-Za-z]\w*) = ", constants)


def hash_script(script: str) -> str:
    """Return the hash of a script for a content security policy."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def render_page(template: str, script: str, **values: Any) -> bytes:
    """Return a page from a template in web/ with a bundled script.

    Values may come from files and hold anything: they are escaped, and the content security
    policy of the page allows only its own script.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters["printable"] = escape
    environment.filters["time"] = format_time
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    page = environment.get_template(template).render(
        script=script, script_hash=hash_script(script), **values
    )
    return page.encode("utf-8", "backslashreplace")


def check_page_path(path: Path, mark: str) -> None:
    """Raise ValueError if a file exists that generate.py did not write as a page with this mark."""
    if path.exists() and not has_mark(path, f'content="{mark}"'):
        raise ValueError(f"{path}: not written by generate.py; --force replaces the file")


def format_time(seconds: float) -> str:
    """Format seconds as minutes and seconds: "1:05"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
