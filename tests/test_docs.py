"""Every Python block of README and docs runs, in order within a page, in an empty folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = sorted(
    page for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")) if BLOCK.search(page.read_text())
)


# These train or export nothing that another page, or a test of their subject, does not.
SLOW = (
    "segmentation.md",
    "3d-convolution.md",
    "early-stopping.md",
    "augmentation.md",
    "own-model.md",
    "serve.md",
    "deploy.md",
)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[pytest.mark.full] if page.name in SLOW else [])
        for page in PAGES
    ],
)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    scope: dict[str, object] = {"__name__": "__main__"}
    for match in BLOCK.finditer(text):
        # Line numbers of a failure are those of the page.
        lines = text.count("\n", 0, match.start(1))
        exec(compile("\n" * lines + match.group(1), str(page), "exec"), scope)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing
