import pathlib
import re

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def test_page_on_criteria_runs_as_printed(capsys):
    page = (DOCS / "extending_criteria.md").read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page, re.S | re.M)
    source = "".join(text for language, text in blocks if language == "python")
    expected = "".join(text for language, text in blocks if language == "")
    exec(compile(source, "extending_criteria.md", "exec"), {"__name__": "page"})
    printed = capsys.readouterr().out
    assert printed.startswith(expected)
    assert "Delta F (nats)" in printed
