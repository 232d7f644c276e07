"""What the documents say is so."""

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
