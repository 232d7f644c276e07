"""What the documents say is so."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_reference_of_settings_is_what_the_models_say() -> None:
    script = ROOT / "docs" / "write_settings.py"
    written = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    fresh = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stdout
    assert written == fresh, "run: python docs/write_settings.py > docs/reference/settings.md"


def test_the_table_of_promises_is_what_the_tests_say() -> None:
    script = ROOT / "docs" / "write_promises.py"
    written = (ROOT / "docs" / "reference" / "promises.md").read_text(encoding="utf-8")
    fresh = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True).stdout
    assert written == fresh, "run: python docs/write_promises.py > docs/reference/promises.md"


@pytest.mark.parametrize(
    "path", [*sorted(ROOT.glob("examples/*.yaml")), ROOT / "config.yaml"], ids=lambda path: path.name
)
def test_examples_are_valid_settings(path: Path) -> None:
    from cytoclr.config import read_settings

    read_settings(path)


def test_every_link_in_the_documents_leads_somewhere() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("decisions/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_root_config_is_the_demo() -> None:
    from cytoclr.config import Settings, read_settings

    assert read_settings(ROOT / "config.yaml") == Settings()


#: A block of a document: the comment before it, its language, its lines.
BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[^\n]+?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/how-to/*.md")), ids=lambda path: path.name)
def test_every_block_of_a_how_to_does_what_it_says(path: Path, tmp_path: Path) -> None:
    """Run a page's blocks in their order, in a folder that has the repository's config.yaml.

    Blocks of `bash` and `python` are run. `<!-- file: NAME -->` before a block: it is written to that file.
    `<!-- not run: REASON -->`: it is left out. Blocks of `text` are what is printed.
    """
    (tmp_path / "config.yaml").write_bytes((ROOT / "config.yaml").read_bytes())
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for block in BLOCK.finditer(path.read_text(encoding="utf-8")):
        note, language, text = block["note"] or "", block["language"], block["text"]
        kind, _, what = note.partition(": ")
        if kind == "file":
            (tmp_path / what).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / what).write_text(text, encoding="utf-8")
        elif language != "text" and not (kind == "not run" and what):
            assert language in PROGRAMS, f"a block of {language or 'no language'}: say why it is not run\n{text}"
            call = [*PROGRAMS[language], text]
            done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


PROGRAMS = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
