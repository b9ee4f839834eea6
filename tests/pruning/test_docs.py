import pathlib
import re

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def run_page(name):
    """Runs the Python blocks of a page; what the page says they print."""
    page = (DOCS / name).read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page, re.S | re.M)
    source = "".join(text for language, text in blocks if language == "python")
    exec(compile(source, name, "exec"), {"__name__": "page"})
    return "".join(text for language, text in blocks if language == "")


def test_page_on_criteria_runs_as_printed(capsys):
    expected = run_page("extending_criteria.md")
    printed = capsys.readouterr().out
    assert printed.startswith(expected)
    assert "Delta F (nats)" in printed


def test_page_on_shrink_runs_as_printed(capsys):
    expected = run_page("shrink.md")
    assert capsys.readouterr().out == expected
