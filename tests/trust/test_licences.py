"""The gate of licences: it lets through what is installed, and not what it must not."""

import importlib.util
import sys
from importlib.metadata import PathDistribution
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).parents[2] / "tools" / "licences.py"


@pytest.fixture(scope="module")
def licences() -> ModuleType:
    spec = importlib.util.spec_from_file_location("licences", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_distribution(folder: Path, licence: str) -> PathDistribution:
    info = folder / "thing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: thing\nVersion: 1.0\n{licence}\n")
    return PathDistribution(info)


@pytest.mark.promise("Nobody let in", "No dependency is of the GPL or AGPL, or of a licence that nobody has read")
def test_what_is_installed_passes(
    licences: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["licences.py"])
    code = licences.main()
    assert code == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("licence", "verdict"),
    [
        ("License-Expression: GPL-3.0-or-later", "not to be depended on"),
        ("License: AGPL-3.0", "not to be depended on"),
        ("Classifier: License :: OSI Approved :: GNU General Public License v2 (GPLv2)", "not to be depended on"),
        ("License-Expression: GPL-2.0-only OR MIT", None),
        ("License-Expression: LGPL-3.0-only", None),
        ("License: GNU Lesser General Public License", None),
        ("License: ask me", "not known"),
        ("Classifier: License :: OSI Approved", "no licence named: not known"),
        ("License-Expression: MIT", None),
    ],
)
def test_verdicts(licences: ModuleType, tmp_path: Path, licence: str, verdict: str | None) -> None:
    told = list(licences.judge({"thing": make_distribution(tmp_path, licence)}))
    assert (told == []) if verdict is None else (verdict in told[0])
