"""A LaTeX table by booktabs that fits the line, whatever stands in it."""

from __future__ import annotations

from collections.abc import Sequence

PACKAGES = r"% \usepackage{booktabs, graphicx}"
FITTED = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # smaller where it is too wide


def latex_table(columns: str, blocks: Sequence[tuple[Sequence[str], Sequence[str]]], caption: str) -> str:
    r"""A table environment; its parts are LaTeX already.

    columns: as of tabular. blocks: a header's cells and the lines under it (rows that end in \\, rules), one
    block below the other.
    """
    lines = [r"\begin{table}", r"\centering", FITTED, rf"\begin{{tabular}}{{{columns}}}"]
    for number, (header, rows) in enumerate(blocks):
        lines += [r"\midrule" if number else r"\toprule", " & ".join(header) + r" \\", r"\midrule", *rows]
    return "\n".join(
        [*lines, r"\bottomrule", r"\end{tabular}}", rf"\caption{{{caption}}}", r"\end{table}", ""]
    )
