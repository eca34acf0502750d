"""Hallucinated names: planted ones are found, and what is right or cannot be known is left alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from proxy.bench.pack import invented
from proxy.bench.pack.invented import claims, invented_names

FILES = {
    "shop/__init__.py": "from shop.prices import total\nVERSION = 1\n",
    "shop/prices.py": "import math\nRATES: dict[str, float] = {}\ndef total(): ...\nif RATES:\n    extra = 1\n",
    "shop/deep/tax.py": "class Tax:\n    rate = 1\ndef set_up():\n    global state\n    state = 1\n",
    "shop/lazy.py": "def __getattr__(name): ...\n",
    "shop/all.py": "from os.path import *\n",
    "shop/filled.py": "globals().update(a=1)\n",
    "src/inner/tool.py": "import far_away_package\ndef work(): ...\n",
    "statistics.py": "own = 1\n",
}
PATH = "shop/deep/new.py"


def found(source: str, path: str = PATH) -> tuple[str, ...]:
    return invented_names(source, path, FILES)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import shop.price", ("shop.price",)),
        ("from shop import totals", ("shop.totals",)),
        ("from shop.prices import RATES, discount", ("shop.prices.discount",)),
        ("from shop.deep.tax import Taxes as T", ("shop.deep.tax.Taxes",)),
        ("import shop.prices as p\np.totl()", ("shop.prices.totl",)),
        ("import shop\nshop.prices.totl()", ("shop.prices.totl",)),
        ("from shop import prices\ndef f(x):\n    if x:\n        return prices.sum_up(x)", ("shop.prices.sum_up",)),
        ("from . import taxes", (".taxes",)),
        ("from .tax import Rate", (".tax.Rate",)),
        ("from ..prices import totals", ("..prices.totals",)),
        ("from .. import tax", ("..tax",)),
        ("from .nowhere import *", (".nowhere",)),
        ("from inner.tool import play", ("inner.tool.play",)),
        ("import os.paths", ("os.paths",)),
        ("from math import cubrt", ("math.cubrt",)),
        ("import math\nprint(math.cubrt(8))", ("math.cubrt",)),
        ("import os.path as p\np.joined('a')", ("os.path.joined",)),
        ("import xml\nxml.etree.ElementThree", ("xml.etree.ElementThree",)),
        ("from collections import OrderedDictionary", ("collections.OrderedDictionary",)),
        ("import json, re\njson.load(re.findfirst('a', 'b'))", ("re.findfirst",)),
        ("from statistics import owned, median", ("statistics.owned",)),
        ("try:\n    import math\nexcept KeyError:\n    pass\nmath.nope", ("math.nope",)),
        ("try:\n    x = 1\nfinally:\n    from math import nope", ("math.nope",)),
        ("import a_package_that_is_nowhere", ("a_package_that_is_nowhere",)),
        ("def f(:", ()),
    ],
)
def test_planted_names_are_found(source: str, names: tuple[str, ...]) -> None:
    assert found(source) == names


@pytest.mark.parametrize(
    "source",
    [
        "import shop.prices\nshop.prices.total(), shop.VERSION, shop.total, shop.prices.math.nope, shop.__name__",
        "from shop.prices import extra, math\nfrom shop.deep.tax import state, Tax\nTax.anything",
        "from shop.lazy import whatever\nfrom shop.all import join\nfrom shop.filled import a\nfrom shop import deep",
        "from . import tax\nfrom .tax import Tax\nfrom ..prices import total\nfrom .. import prices, VERSION",
        "from ... import beyond_the_top",
        "from inner import tool\ntool.work()",
        "import far_away_package.part\nfar_away_package.part.x",
        "import os, os.path, xml.etree.ElementTree as E\nos.path.join, E.parse",
        "import concurrent.futures\nconcurrent.futures.wait",
        "from concurrent import futures\nimport xml\nxml.dom.minidom.parse, futures.wait",
        "import datetime\ndatetime.datetime.nowhere_yet",
        "try:\n    import tomlkit_x as toml\nexcept ImportError:\n    toml = None\ntoml.loads",
        "try:\n    from math import cubrt\nexcept (ImportError, OSError):\n    cubrt = None",
        "try:\n    from math import cubrt\nexcept:\n    cubrt = None",
        "import math\ntry:\n    math.cubrt\nexcept AttributeError:\n    pass",
        "from contextlib import suppress\nwith suppress(ImportError):\n    import nothing_at_all",
        "import sys\nif sys.platform == 'win32':\n    import winreg, nothing_at_all\n    sys.nope()",
        "import os\nos.nope() if hasattr(os, 'nope') else None\nhasattr(os, 'more') and os.more()",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from _typeshed import SupportsRead",
        "import sys\nif sys.platform != 'win32':\n    raise OSError\nimport winreg, os\nwinreg.OpenKey, os.startfile",
        "from os import *\nfrom shop.prices import *\nnope()",
        "import json\njson = make()\njson.nope",
        "import json\ndef f(json):\n    return json.nope",
        "import math\nmath.tau2 = 7\nmath.tau2 + 1",
        "if x:\n    import json as j\nelse:\n    import pickle as j\nj.nope",
        "from statistics import own, median\nimport statistics\nstatistics.fmean",
        "import antlib"
        if sys.version_info < (3,)
        else "import asyncio.windows_events, multiprocessing.popen_spawn_win32",
    ],
)
def test_no_false_alarm(source: str) -> None:
    assert found(source) == ()


def test_what_the_reference_does_is_not_looked_for() -> None:
    source = "from math import cubrt, nope"
    assert invented_names(source, PATH, FILES, "from math import cubrt") == ("math.nope",)


def test_nothing_is_asked_where_nothing_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invented, "missing_names", None)
    assert invented_names("import os\nos.getcwd()", PATH, FILES, "import os\nos.getcwd()\nos.sep") == ()


def test_nothing_of_the_model_is_imported_here(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    source = f"open({str(mark)!r}, 'w')\nimport evil_sibling_module\nfrom .evil_sibling_module import x\n"
    files = {"pkg/evil_sibling_module.py": f"open({str(mark)!r}, 'w')\nx = 1\n"}
    assert invented_names(source, "pkg/it.py", files) == ()
    assert not mark.exists() and not any("evil_sibling" in name for name in sys.modules)


def test_our_own_modules_claim_nothing_that_is_not_there() -> None:
    root = Path(__file__).parents[4]
    own = {path.relative_to(root).as_posix(): path.read_text() for path in sorted(root.glob("proxy/**/*.py"))}
    for folder in ("policies", "detectors", "engine"):
        own |= {path.relative_to(root).as_posix(): path.read_text() for path in sorted(root.glob(f"{folder}/**/*.py"))}
    asked: list[tuple[str, tuple[str, ...]]] = []
    repository = invented.Repository(own)
    for path in [path for path in own if path.startswith("proxy/bench")]:
        for claim in claims(own[path]):
            top = claim.module.partition(".")[0]
            if top in ("proxy", "policies", "detectors", "engine"):
                assert not repository.lacks(claim.module, claim.attributes), f"{path}: {claim}"
            elif top in sys.stdlib_module_names:
                asked.append((claim.module, claim.attributes))
    assert len(asked) > 100
    told = invented.missing_names(asked)
    assert [claim for claim, absent in zip(asked, told, strict=True) if absent] == []
