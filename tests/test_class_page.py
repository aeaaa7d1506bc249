"""What `chapters/class.md` shows and promises."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from jupyter_server.services.kernels.kernelmanager import MappingKernelManager

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "chapters" / "class.md").read_text(encoding="utf8")
TABLE = re.search(r"<!-- memory: begin -->\n(.*?)<!-- memory: end -->", PAGE, re.S)[1]


def test_its_link_is_the_one_that_it_computes(capsys):
    code = next(block for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) if "import" in block)
    exec(code, {})
    assert capsys.readouterr().out == (
        "https://hub.example.edu/hub/user-redirect/git-pull?repo=https%3A%2F%2Fgithub.com%2Fowner%2Fname"
        "&urlpath=lab%2Ftree%2Fname%2Fchapters%2Felbo.ipynb&branch=notebooks\n"
    )


def test_its_settings_can_be_read():
    hub = yaml.safe_load(re.search(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[1])["singleuser"]
    assert hub["memory"] == {"guarantee": "1G", "limit": "2G"} and "2 GB a student as the limit and 1 GB as the guarantee" in PAGE


def test_idle_kernels_are_ended_alike_by_both_ways():
    """As settings that the server knows."""
    _, hub = (yaml.safe_load(block)["singleuser"] for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    (name, mounted), = hub["extraFiles"].items()
    assert mounted["mountPath"] == f"/etc/jupyter/{name}", "the name says of what kind it is"
    assert mounted["data"] == json.loads(re.search(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[1])
    assert set(mounted["data"]["MappingKernelManager"]) <= set(MappingKernelManager.class_trait_names())


def test_its_table_has_every_notebook_and_keeps_the_promise():
    """Measured by `benchmarks/memory.py --write`, which fails where a chapter needs more than the page says."""
    rows = {name.strip(): int(memory) for name, memory in re.findall(r"^\| ([^|]+) \| (\d+) MB \|", TABLE, re.M)}
    server = rows.pop("JupyterLab's server, beside the kernel")
    sources = [ROOT / "intro.md", *(ROOT / "chapters").glob("*.md")]
    assert set(rows) == {path.stem for path in sources if "kernelspec" in path.read_text(encoding="utf8")}
    assert max(rows.values()) + server < 2048 * 0.75, "room for what a student adds"
    assert sorted(rows.values())[len(rows) // 2] + server < 1024, "the guarantee holds half of the chapters"


def test_the_files_that_it_names_are_there():
    for name in re.findall(r"(?:binder|benchmarks)/[\w.]+", PAGE):
        assert (ROOT / name).exists(), name
