"""How the literature writes the methods' names, in LaTeX."""

from __future__ import annotations

import re

LATEX = {
    "ascent_descent": "Ascent--Descent",
    "amnesiac": "Amnesiac",
    "bad_teacher": "Bad Teacher",
    "boundary_expanding": "Boundary Expanding",
    "boundary_shrink": "Boundary Shrink",
    "CFk": "CF-$k$",
    "default": "Original",
    "EUk": "EU-$k$",
    "fisher": "Fisher",
    "fisher_new": "Fisher (new)",
    "FT_l1": r"$\ell_1$-sparse",
    "logit_attribution": "Logit attribution",
    "NGPlus": "NegGrad+",
    "NGPlus_OPT": "NegGrad+ OPT",
    "random_mask": "Random mask",
    "retrain": "Retrain",
    "SalUn_soft": "SalUn (soft)",
    "SRL_OPT": "SRL OPT",
    "wfisher": "WoodFisher",
}
SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "→": r"$\to$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "†": r"$^{\dagger}$",
}


def latex_name(method: str) -> str:
    """Return the literature's name of a method as LaTeX, else its own name, escaped."""
    return LATEX.get(method, latex_text(method))


def latex_text(text: str) -> str:
    """Return text on one line with the signs of LaTeX escaped."""
    signs, line = r"[&%$#_{}]|[\\~^<>|±−→↑↓†]", " ".join(text.split())
    return re.sub(signs, lambda sign: SPECIAL.get(sign[0], f"\\{sign[0]}"), line)
