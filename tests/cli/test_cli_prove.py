"""`amends prove`: verdict and exit status, stories and tokens, the contract matrix, bad input, and the web page."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from commands import CommandProject, Ended

from amends.cli.project.new_project import FILES

TRIP = '{"guest": "Ada", "hotel": "Seaside", "nights": 2, "card": "4242"}'
HOTEL = 'Hotel={"id": "Seaside", "rooms": 3}'
LEAKS = '''
"""Sagas whose functions do not fit a search."""

import random
from pathlib import Path

from amends import Call, Saga, UnitOfWork, effect, pivot, transaction


@transaction
def roll(_: int, uow: UnitOfWork) -> float:
    """Roll dice."""
    return random.random()


@effect
async def read_file(_: int, call: Call) -> str:
    """Read a file."""
    return Path("amends.toml").read_text()


dice = Saga("dice", int, pivot(roll))
leaky = Saga("leaky", int, pivot(read_file))
'''
LAWS = '''
"""Laws of trips."""

from amends.testing import End, prove
from trips import Hotel, Trip, book_trip, pay

LIMIT = 3


def rooms_are_right(end: End) -> None:
    assert end.aggregate(Hotel, "Seaside").rooms == (2 if end.completed else 3)


def nobody_stays(end: End) -> None:
    assert not end.completed, "somebody stays"


@prove(book_trip, Trip(guest="Ada", hotel="Seaside", nights=2, card="4242"), given=[Hotel("Seaside", 3)])
def test_nobody_stays(end: End) -> None:
    assert not end.completed, "somebody stays"


def of_two(end: End, other: End) -> None:
    """Take two arguments."""


async def waiting(end: End) -> None:
    """Wait."""
'''
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> CommandProject:
    """The project that `amends init` creates, with a few more modules."""
    made = CommandProject(tmp_path_factory.mktemp("trips"))
    for name, text in FILES.items():
        made.write(name, text)
    made.write("amends.toml", 'modules = ["trips", "leaks"]')
    made.write("leaks.py", LEAKS)
    made.write("laws.py", LAWS)
    made.write(
        "places.py", "from trips import Hotel\n\ndef two():\n    return [Hotel('Seaside', 3), Hotel('Hill', 1)]\n"
    )
    return made


def prove(project: CommandProject, *options: str | Path) -> Ended:
    """Explore the trip with one fault; the payment answers with a receipt."""
    return project.run("prove", "book-trip", TRIP, "--given", HOTEL, "--result", 'pay="r-1"', "--faults", "1", *options)


def test_a_saga_that_holds_ends_with_0(project: CommandProject) -> None:
    """The report has the verdict, the size of the search, the contracts and the coverage."""
    ended = prove(project)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("book-trip  PROVED\n")
    for line in (r"faults +up to 1", r"explored +\d+ stories in \d+ states", r"contracts +payment: remembers undo"):
        assert re.search(f"^{line}", ended.out, re.MULTILINE)
    assert re.search(r"^coverage +\d+ of \d+ transitions of a step", ended.out, re.MULTILINE)


def test_a_broken_law_ends_with_1_and_its_token_replays(project: CommandProject) -> None:
    """The story, its facts and the books are shown, and the token plays the same story again."""
    ended = prove(project, "--contract", "payment=forgetful")
    assert ended.code == 1
    story = ended.out.partition("with 1 fault:\n")[2].partition("\nreplay: ")[0].strip()
    for part in ("the network keeps a copy", "StepSucceeded", "participant  step", "run-1/pay/do/0"):
        assert part in story
    token = ended.out.rpartition("--replay ")[2].strip()
    again = prove(project, "--replay", token)
    assert (again.code, again.out.strip()) == (0, story)


def test_several_contracts_make_a_matrix(project: CommandProject) -> None:
    """Each combination is one row, in the order of the contracts; only the first broken law of each has its story."""
    ended = prove(project, "--matrix")
    rows = [line.split("  ")[0] for line in ended.out.splitlines()[1:4]]
    assert rows == ["remembers undo", "keyed", "forgetful"]
    assert ended.code == 1
    assert "forgetful       broken       1  never acts twice" in ended.out
    several = prove(project, "--contract", "payment=keyed", "--contract", "payment=REMEMBERS_UNDO")
    assert several.code == 0
    assert re.search(r"^keyed +proved", several.out, re.MULTILINE)


def test_json_has_everything(project: CommandProject) -> None:
    """Programs get numbers, ends, unused rows, stories with full facts and the token."""
    report = json.loads(prove(project, "--json", "--contract", "payment=forgetful").out)
    assert (report["verdict"], report["holds"], report["contracts"]) == ("broken", False, {"payment": "forgetful"})
    assert report["coverage"]["used"] + len(report["coverage"]["unused"]) == report["coverage"]["total"]
    broken = report["broken"][0]
    assert broken["story"]["facts"][0]["fact"] == "SagaStarted"
    assert {"participant": "payment", "node": "pay", "key": "run-1/pay/do/0", "acted": 2, "undone": 0} in broken[
        "story"
    ]["books"]
    story = json.loads(prove(project, "--json", "--replay", broken["replay"]).out)
    assert story == broken["story"]
    both = json.loads(prove(project, "--json", "--contract", "payment=keyed", "--contract", "payment=forgetful").out)
    assert [each["contracts"]["payment"] for each in both] == ["keyed", "forgetful"]


def test_aggregates_come_from_a_module_of_the_project(project: CommandProject) -> None:
    """`MODULE:NAME` names aggregates, or a function that returns some."""
    ended = project.run(
        "prove", "book-trip", TRIP, "--given", "places:two", "--result", 'pay="r"', "--faults", "0", "--json"
    )
    assert json.loads(ended.out)["stories"] == 1


@pytest.mark.parametrize("name", ["nobody_stays", "test_nobody_stays"])
def test_an_invariant_of_the_project_is_a_law(project: CommandProject, name: str) -> None:
    """A function of the project, or a test of `@prove`, is checked at every end; its message is in the report."""
    ended = prove(project, "--invariant", f"laws:{name}", "--faults", "0")
    assert ended.code == 1
    assert re.search(r"invariant.*somebody stays", ended.out, re.DOTALL)
    holds = prove(project, "--invariant", "laws:rooms_are_right")
    assert (holds.code, holds.out.splitlines()[0]) == (0, "book-trip  PROVED")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-trip",), "no saga is called 'no-trip'; defined are: book-trip, dice, leaky"),
        (("book-trip", '{"guest": 1}'), "input of saga 'book-trip'"),
        (("book-trip", TRIP, "--contract", "bank=keyed"), "no effect of book-trip calls such a participant"),
        (("book-trip", TRIP, "--contract", "payment=safe"), "use one of remembers-undo, keyed, forgetful, all"),
        (("book-trip", TRIP, "--given", "Motel={}"), "define no aggregate of that name; they define Hotel"),
        (("book-trip", TRIP, "--given", "Hotel=[]"), "as a JSON object"),
        (("book-trip", TRIP, "--given", 'Hotel={"rooms": 3}'), "missing 1 required positional argument: 'id'"),
        (("book-trip", TRIP, "--given", "places"), "write MODULE:NAME, or CLASS=JSON"),
        (("book-trip", TRIP, "--given", "nowhere:TWO"), "ModuleNotFoundError"),
        (("book-trip", TRIP, "--given", "places:three"), "has no attribute 'three'"),
        (("book-trip", TRIP, "--tables", "trips:Hotel"), "MetaData"),
        (("book-trip", TRIP, "--result", "fly=1"), "has no such step; write STEP=JSON"),
        (("book-trip", TRIP, "--result", "pay=1"), "result of step 'pay'"),
        (("book-trip", TRIP, "--invariant", "laws"), "--invariant 'laws': write MODULE:FUNCTION"),
        (("book-trip", TRIP, "--invariant", "nowhere:law"), "ModuleNotFoundError"),
        (("book-trip", TRIP, "--invariant", "laws:missing"), "has no attribute 'missing'"),
        (("book-trip", TRIP, "--invariant", "laws:LIMIT"), "this is no function (3); name one"),
        (("book-trip", TRIP, "--invariant", "laws:of_two"), "it must take one argument, the End"),
        (("book-trip", TRIP, "--invariant", "laws:waiting"), "cannot wait for an `async def` function"),
        (("book-trip", TRIP, "--faults", "-1"), "faults=-1"),
        (("book-trip", TRIP, "--seconds", "0"), "seconds=0"),
        (("book-trip", TRIP, "--seconds", "nan"), "--seconds nan"),
        (("book-trip", TRIP, "--replay", "x"), "no replay token"),
        (("book-trip", TRIP, "--given", HOTEL), "--result pay=JSON"),
        (("dice", "1"), "step 'roll': its function is not deterministic"),
        (("leaky", "1"), "step 'read_file': its function opens"),
        (("book-trip", TRIP, "--result", 'pay="r"', "--faults", "0", "--html", "/"), "the file cannot be written"),
    ],
)
def test_bad_input_is_one_line(project: CommandProject, arguments: tuple[str, ...], message: str) -> None:
    """Each argument that does not fit ends the command with status 2 and one line that names it."""
    ended = project.run("prove", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.error


def test_the_page_needs_nothing_but_itself(project: CommandProject, tmp_path: Path) -> None:
    """The page loads no other file and runs no script, and text of users is no markup in it."""
    page = tmp_path / "report.html"
    evil = json.dumps("<b id=evil>\u202e</b><script>1</script>")
    prove(project, "--contract", "payment=forgetful", "--result", f"pay={evil}", "--html", page)
    text = page.read_text(encoding="utf-8")
    assert "&lt;b id=evil&gt;" in text
    assert not re.search(r"<b |<script|<link|\ssrc=|\shref=|url\(|https?:|\u202e", text)


def test_the_catalog_shows_participants(project: CommandProject) -> None:
    """Each effect has its participant with the contract, for people and for programs; a transaction has none."""
    assert re.search(r"^pay .* payment: remembers undo ", project.run("catalog").out, re.MULTILINE)
    entries = {each["step"]: each for each in json.loads(project.run("catalog", "--json").out)}
    assert (entries["pay"]["participant"], entries["pay"]["contract"]) == ("payment", "remembers undo")
    assert (entries["confirm"]["participant"], entries["confirm"]["contract"]) == (None, None)


def test_describe_lists_the_ways_to_end(project: CommandProject) -> None:
    """The plan alone shows each end with its fewest faults, and the steps that can stay open."""
    lines = project.run("describe", "book-trip", "--reachable").out.splitlines()
    assert [line.split() for line in lines[1:3]] == [["COMPLETED", "0"], ["COMPENSATED", "1"]]
    assert ["NEEDS_ATTENTION", "2", "pay", "(undo", "rejected)"] in [line.split() for line in lines]
    found = json.loads(project.run("describe", "book-trip", "--reachable", "--json").out)
    assert found["complete_up_to"] == found["faults"] == 2
    assert {"status": "COMPLETED", "faults": 0, "open_nodes": []} in found["ends"]
    assert "--mermaid excludes" in project.run("describe", "book-trip", "--reachable", "--mermaid").error


def test_a_browser_shows_the_page(project: CommandProject, tmp_path: Path) -> None:
    """A real browser shows the plan with covered and failing points, and each move of the story."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser is installed: {', '.join(BROWSERS)}")
    page = tmp_path / "report.html"
    prove(project, "--matrix", "--html", page)
    shown = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    sections = shown.split("<section>")[1:]
    assert [len(re.findall(r'<g data-node="(\w+)">', each)) for each in sections] == [3, 3, 3]
    assert ["failing" in each for each in sections] == [False, False, True]
    assert 'class="covered"' in sections[0]
    assert 'class="open"' in sections[0]
    assert len(re.findall(r'<li class="fault">', sections[2])) == sections[2].count("<ol")
