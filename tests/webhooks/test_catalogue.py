"""Listings of modules as the tools print them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webhooks.catalogue import Catalogue, find, nearest, read_catalogue

# Printed by Lmod 8.6.19 for one tree of modules: with aliases, versions below versions, a module without any.
LMOD_AVAIL = """\
compiler(@gcc/13.1)
/apps/modules:
cuda/
cuda/12.4
gcc/
gcc/12.3
gcc/stable(@gcc/12.10)
gcc/12.10
gcc/13.1
meta
numlib/FFTW/
numlib/FFTW/3.3
"""
LMOD_SPIDER = "cuda/\ncuda/12.4\ngcc/\ngcc/12.3\ngcc/12.10\ngcc/13.1\nmeta\nnumlib/FFTW/\nnumlib/FFTW/3.3\n"
# Printed by environment-modules 5.2.0 for the same tree.
MODULES_AVAIL = """\
/apps/modules:
compiler(@)
cuda/12.4
gcc/12.3(default)
gcc/12.10(stable)
gcc/13.1
meta
numlib/FFTW/3.3
"""

PLAIN = {"cuda": ("12.4",), "gcc": ("12.3", "12.10", "13.1"), "meta": (), "numlib/FFTW": ("3.3",)}


@pytest.mark.parametrize(
    ("text", "versions"),
    [
        pytest.param(LMOD_SPIDER, PLAIN, id="Lmod's spider"),
        pytest.param(
            LMOD_AVAIL, PLAIN | {"compiler": (), "gcc": ("12.3", "stable", "12.10", "13.1")}, id="Lmod's avail"
        ),
        pytest.param(MODULES_AVAIL, PLAIN | {"compiler": ()}, id="environment-modules' avail"),
        pytest.param("gcc/\ngcc/12/x86\n", {"gcc": ("12/x86",)}, id="versions with slashes"),
        pytest.param("tools/12/x86\n", {"tools/12": ("x86",)}, id="slashes without a line that names the module"),
        pytest.param("gcc/12.3 (L,D)\ngcc/13\t<aL>\n", {"gcc": ("12.3", "13")}, id="marks after a space"),
        pytest.param("a/1\r\n\r\na/1\r\na/2\r\n", {"a": ("1", "2")}, id="Windows lines and one twice"),
        pytest.param("---- /apps ----\na/1\n------\n/with space:\nb\n", {"a": ("1",), "b": ()}, id="headings"),
        pytest.param("a/\n", {"a": ()}, id="a name whose versions are hidden"),
    ],
)
def test_listing_is_read(text: str, versions: dict[str, tuple[str, ...]]) -> None:
    assert read_catalogue(text).versions == versions


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("gcc/12\nLmod has detected the following error:\n", r"line 2 .*module -t spider", id="an error"),
        pytest.param("  cuda: cuda/12.4\n", "line 1", id="not terse"),
        pytest.param("/apps:\n/gcc/12\n", "line 2 of the module catalogue, '/gcc/12'", id="a path"),
        pytest.param("gcc/12(default\n", "line 1", id="a mark cut off"),
        pytest.param("", "lists no module; Lmod prints to stderr", id="empty"),
        pytest.param("/apps/modules:\n", "lists no module", id="headings alone"),
    ],
)
def test_what_is_no_listing_is_refused_with_line_and_remedy(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_catalogue(text)


@settings(max_examples=100)
@given(st.text(st.characters(codec="utf-8") | st.sampled_from("/():\n@ -a1"), max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        catalogue = read_catalogue(text)
    except ValueError:
        return

    listed = [f"{name}/{version}" for name, versions in catalogue.versions.items() for version in versions]
    assert all(find(catalogue, each) for each in (*catalogue.versions, *listed))


CATALOGUE = Catalogue(
    versions={
        "gcc": ("12.3", "12.10", "13.1"),
        "PyTorch": ("2.3-cuda", "2.4-cuda"),
        "numlib/FFTW": ("3.3",),
        "meta": (),
    }
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("gcc", True, id="a name alone"),
        pytest.param("gcc/12.3", True, id="a version"),
        pytest.param("gcc/12", True, id="the beginning of a version"),
        pytest.param("gcc/1", False, id="a part of a number"),
        pytest.param("gcc/14", False, id="another version"),
        pytest.param("gcc/default", True, id="the default by name"),
        pytest.param("gcc/", False, id="no version after the slash"),
        pytest.param("PyTorch/2.3", True, id="without a version suffix"),
        pytest.param("pytorch", False, id="another spelling"),
        pytest.param("numlib/FFTW", True, id="a name with a slash"),
        pytest.param("numlib/FFTW/3.3", True, id="a version of a name with a slash"),
        pytest.param("numlib", False, id="a category"),
        pytest.param("meta", True, id="without versions"),
        pytest.param("meta/1", False, id="a version where there is none"),
        pytest.param("", False, id="nothing"),
    ],
)
def test_find(name: str, *, expected: bool) -> None:
    assert find(CATALOGUE, name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("gcc/12.4", ["gcc/12.3", "gcc/12.10", "gcc/13.1"], id="another version: those that there are"),
        pytest.param("gcc/zzz", ["gcc/12.3", "gcc/12.10", "gcc/13.1"], id="nothing like a version"),
        pytest.param("pytorch/2.3", ["PyTorch"], id="another spelling with a version"),
        pytest.param("FFTW/3.3", ["numlib/FFTW"], id="without its category"),
        pytest.param("gc", ["gcc"], id="a letter short"),
        pytest.param("meta/1", ["meta"], id="a version where there is none"),
        pytest.param("tensorflow", [], id="nothing like it"),
    ],
)
def test_nearest_names(name: str, expected: list[str]) -> None:
    assert list(nearest(CATALOGUE, name)) == expected
