"""The descriptions of runs, where names hold what Markdown reads."""

from lethe.report.run_note import sweep_note


def test_names_with_signs_of_markdown_stay_names():
    note = sweep_note({"a|b *c* d_e": {"forget_score": 1.0}}, "request <b>")

    assert r"| a\|b \*c\* d_e |" in note
    assert r"vary: request \<b>" in note
