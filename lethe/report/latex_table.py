"""A LaTeX table by booktabs that fits the line."""

from __future__ import annotations

from collections.abc import Sequence

PACKAGES = r"% \usepackage{booktabs, graphicx}"
FITTED = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # smaller where it is too wide


def latex_table(columns: str, blocks: Sequence[tuple[Sequence[str], Sequence[str]]], caption: str) -> str:
    r"""Return a table environment from parts in LaTeX.

    columns: as of tabular. blocks: from top to bottom, a header's cells and its lines (rows with \\, rules).
    """
    lines = [r"\begin{table}", r"\centering", FITTED, rf"\begin{{tabular}}{{{columns}}}"]
    for number, (header, rows) in enumerate(blocks):
        lines += [r"\midrule" if number else r"\toprule", " & ".join(header) + r" \\", r"\midrule", *rows]
    return "\n".join(
        [*lines, r"\bottomrule", r"\end{tabular}}", rf"\caption{{{caption}}}", r"\end{table}", ""]
    )
