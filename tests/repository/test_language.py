"""The budget of plain English, over docstrings, comments, help texts, messages and pages; docs/STYLE.md explains it."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from documents.prose import Passage, passages_of_page, passages_of_python, words
from repository import ROOT, repository_files

# These words hide the subject of a sentence; a page that explains the rule may use them.
NOUNLESS = re.compile(r"\b(?:what|who|whatever|whoever)\b", re.IGNORECASE)
NOUNLESS_IN_1000 = 4.0
PASSIVE = re.compile(
    r"\b(?:is|are|was|were|be|been|being)\s+(?:not\s+|never\s+|only\s+|\w+ly\s+)?(?:told|said|made|given|held|begun|left)\b",
    re.IGNORECASE,
)
PASSIVE_IN_1000 = 1.5
EMPTY_VERBS = re.compile(r"(?:Give|Tell|Say|Make|Have|Look|Take)\b")
BANNED = re.compile(r"\b(?:anew|beside|mend(?:s|ed|ing)?|of ours|by itself|so many)\b", re.IGNORECASE)
YOU = re.compile(r"\byou(?:r|rs)?\b", re.IGNORECASE)
YOU_IN_1000 = 5.0
EXEMPT = {Path("docs/STYLE.md"), Path("tests/repository/test_language.py")}
PAGES = "pages"
# Messages count together: the docstrings around them must not hide a bad one.
MESSAGES = "messages"
# Literals of tests are expectations and programs.
SILENT = frozenset({"tests", "benchmarks", "docs"})


def package_of(path: Path) -> str:
    """Return the package that a file's prose counts for: its top folder, or all pages together."""
    return PAGES if path.suffix == ".md" else path.parts[0]


@cache
def files() -> dict[str, list[Path]]:
    """Return the files with prose, by package."""
    found: dict[str, list[Path]] = {}
    for path in repository_files():
        if path not in EXEMPT and path.suffix in {".py", ".md"}:
            found.setdefault(package_of(path), []).append(path)
            if path.suffix == ".py" and package_of(path) not in SILENT:
                found.setdefault(MESSAGES, []).append(path)
    return found


@cache
def prose(package: str) -> dict[Path, list[Passage]]:
    """Return the prose of every file of a package; collecting tests reads none, since that takes seconds."""
    return {
        path: [passage for passage in passages_of(path) if (passage.kind == "message") == (package == MESSAGES)]
        for path in files()[package]
    }


@cache
def passages_of(path: Path) -> list[Passage]:
    """Return the prose of a file."""
    read = passages_of_python if path.suffix == ".py" else passages_of_page
    return read((ROOT / path).read_text(encoding="utf-8"))


def in_1000_words(package: str, pattern: re.Pattern[str]) -> tuple[float, list[str]]:
    """Return how often a pattern occurs in 1,000 words of a package, and where."""
    count, places = 0, []
    for path, passages in prose(package).items():
        count += sum(len(words(passage.text)) for passage in passages)
        places += list(found_in(path, passages, pattern))
    return 1000 * len(places) / count, places


def found_in(path: Path, passages: list[Passage], pattern: re.Pattern[str]) -> Iterator[str]:
    """Yield the place and the words of each occurrence of a pattern in a file."""
    for passage in passages:
        for found in pattern.finditer(passage.text):
            around = passage.text[max(0, found.start() - 30) : found.end() + 30]
            yield f"{path}:{passage.line}: ...{' '.join(around.split())}..."


@pytest.mark.parametrize("package", sorted(files()))
def test_sentences_name_their_subject(package: str) -> None:
    """Words that hide the subject of a sentence are rare in every package."""
    rate, places = in_1000_words(package, NOUNLESS)
    assert rate <= NOUNLESS_IN_1000, f"{rate:.1f} in 1,000 words:\n" + "\n".join(places[:40])


@pytest.mark.parametrize("package", sorted(files()))
def test_sentences_name_their_actor(package: str) -> None:
    """Passives that hide the actor are rare in every package."""
    rate, places = in_1000_words(package, PASSIVE)
    assert rate <= PASSIVE_IN_1000, f"{rate:.1f} in 1,000 words:\n" + "\n".join(places[:40])


@pytest.mark.parametrize("package", sorted(files()))
def test_function_docstrings_start_with_the_verb_for_their_result(package: str) -> None:
    """No docstring of a function starts with a verb that says nothing about its result."""
    found = [
        f"{path}:{passage.line}: {passage.text.splitlines()[0]}"
        for path, passages in prose(package).items()
        for passage in passages
        if passage.kind == "function docstring" and EMPTY_VERBS.match(passage.text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("package", sorted(files()))
def test_words_that_no_colleague_says_are_absent(package: str) -> None:
    """Words that readers had to decode occur nowhere."""
    _, places = in_1000_words(package, BANNED)
    assert not places, "\n".join(places)


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in files()[PAGES]
        if path.parent.name == "how-to" or path.name == "tutorial.md" or path == Path("README.md")
    ],
    ids=str,
)
def test_pages_speak_to_their_reader(path: Path) -> None:
    """The README, the tutorial and each how-to page address the reader."""
    text = " ".join(passage.text for passage in prose(PAGES)[path])
    rate = 1000 * len(YOU.findall(text)) / len(words(text))
    assert rate >= YOU_IN_1000, f"{path}: 'you' occurs {rate:.1f} times in 1,000 words; speak to the reader"


def test_the_count_covers_docstrings_comments_and_help_texts() -> None:
    """Docstrings, comments and help texts are prose; code, pragmas and code spans are not."""
    function = 'def f(x=Option(help="Print it.")):\n    """Return `what` it is."""\n'
    source = f'"""A module."""\n{function}    # A reason.\n    return x  # noqa: X1\n'
    assert [(passage.kind, passage.text) for passage in passages_of_python(source)] == [
        ("docstring", "A module."),
        ("help", "Print it."),
        ("function docstring", "Return code it is."),
        ("comment", "A reason."),
    ]


def test_the_count_covers_messages() -> None:
    """A literal with a space is a message; docstrings, help texts, single words and the code of f-strings are not."""
    source = (
        'def f(x, y=Option(help="Print it.")):\n    """Return it."""\n    print(f"no run {x[\'a b\']}", "key", "a b")\n'
    )
    found = [passage.text for passage in passages_of_python(source) if passage.kind == "message"]
    assert found == ["a b", "no run code"]


def test_the_count_leaves_code_on_pages_out() -> None:
    """Code blocks, code spans, comments and addresses of links on a page are no prose."""
    (passage,) = passages_of_page("See [this](what.md).\n\n```console\n$ who\n```\n\n<!-- what --> Run `who`.\n")
    assert words(passage.text) == ["see", "this", "run", "code"]
