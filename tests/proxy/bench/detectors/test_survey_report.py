"""What the corpus has shown is judged as a whole and by the files on which nothing was chosen."""

from __future__ import annotations

from pathlib import Path

from proxy.bench.detectors import survey_report
from proxy.bench.detectors.corpus import File, Part
from proxy.bench.detectors.survey import Survey
from proxy.bench.detectors.survey_report import bars, tables
from proxy.bench.detectors.tokens import pieces

STUCK = pieces("so we go on and on " * 400)
FINE = pieces("nothing is said twice here")


def made(*documents: tuple[str, Part, list[tuple[int, str]]]) -> Survey:
    found = Survey()
    for number, (category, part, tokens) in enumerate(documents):
        channel = "tool:0" if category.startswith("arguments") else "text"
        found.add(File(Path("x"), f"{number}.txt", "text", part, 1), category, tokens, channel)
    return found


def test_a_fault_in_unseen_files_is_not_watered_down() -> None:
    unseen = [("prose", "held out", STUCK), *(("prose", "held out", FINE) for _ in range(1999))]
    found = made(*unseen, *(("prose", "chosen on", FINE) for _ in range(8000)))  # type: ignore[arg-type]
    judged, unmeasured = bars(found)
    assert {bar.name: (bar.measured, bar.holds) for bar in judged} == {
        "false fallbacks, prose": (0.01, True),
        "false aborts, prose": (0.01, True),
        "false fallbacks, prose, unseen files": (0.05, True),
    }
    assert list(unmeasured) == ["false aborts, prose, unseen files"]  # one of 2000 is more than 0.03 %
    found.merge(made(("prose", "elsewhere", STUCK)))
    assert [(bar.name, bar.holds) for bar in bars(found)[0]][1] == ("false fallbacks, prose, unseen files", False)


def test_too_few_unseen_files_are_said_to_be_too_few() -> None:
    judged, unmeasured = bars(made(("prose", "chosen on", FINE), ("prose", "held out", STUCK)))
    assert [bar.holds for bar in judged] == [False, False]
    assert set(unmeasured) == {"false fallbacks, prose, unseen files", "false aborts, prose, unseen files"}
    assert "one of 1 documents" in unmeasured["false fallbacks, prose, unseen files"]


def test_arguments_have_a_bar_of_their_own_and_data_none() -> None:
    judged, unmeasured = bars(made(("arguments", "chosen on", FINE), ("data", "chosen on", STUCK)))
    assert [(bar.name, bar.target) for bar in judged] == [
        ("false fallbacks, arguments", "<= 0.3 % of documents"),
        ("false aborts, arguments", "<= 0.03 % of documents"),
    ]
    assert unmeasured == {}


def test_the_tables_show_parts_intervals_and_names() -> None:
    found = made(("prose", "chosen on", FINE), ("prose", "elsewhere", STUCK), ("data", "elsewhere", FINE))
    rates, flagged = tables(found)
    assert [row[:3] for row in rates.rows] == [
        ("prose", "chosen on", 1),
        ("prose", "elsewhere", 1),
        ("prose", "all", 2),
        ("data", "elsewhere", 1),
    ]
    assert rates.rows[2][6] == "1 = 50.000 [9.45, 90.55]"
    assert [row[-1] for row in flagged.rows] == ["1.txt"]
    assert len(tables(made(("prose", "chosen on", FINE)))) == 1


def test_many_are_not_all_shown() -> None:
    found = made(*(("prose", "elsewhere", STUCK) for _ in range(survey_report.SHOWN + 1)))
    assert len(tables(found)[1].rows) == survey_report.SHOWN
    assert f"{survey_report.SHOWN + 1} in all" in tables(found)[1].note
