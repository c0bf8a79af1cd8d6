"""Terms of the page: an anchor, the words, an explanation."""

from fnmatch import fnmatchcase
from typing import NamedTuple


class Term(NamedTuple):
    """A term; ``headings`` are patterns of the headings that it explains."""

    name: str
    meaning: str
    headings: tuple[str, ...] = ()


TERMS: dict[str, Term] = {
    "arm": Term(
        "activation (arm)",
        "One of the activation functions compared. All else is the same for every arm: "
        "data, network, initialization, optimizer, number of epochs.",
        ("activation", "arm"),
    ),
    "reference": Term(
        "reference", "The arm that every other arm is compared with, by default apalu."
    ),
    "ablation": Term(
        "ablation",
        "An arm that shows which part of the reference matters. It stands outside the "
        "family of tests: its numbers are exploratory.",
        ("ablation*",),
    ),
    "pair": Term(
        "paired seeds",
        "Every seed trains each arm on the same splits, in the same order, from the "
        "same draw of the weights. Differences within a seed leave out the luck that "
        "both arms share.",
        ("runs", "Runs", "seeds", "pairs"),
    ),
    "unit": Term(
        "unit",
        "A part of the experiment that is trained on its own, such as one data set.",
        ("unit", "left out"),
    ),
    "difference": Term(
        "difference",
        "Reference minus arm, the mean over the pairs. The sign says on which side the "
        "better one is only together with the metric: see the axis of the figure.",
        ("* − arm*", "* - arm*"),
    ),
    "interval": Term(
        "95 % interval",
        "The true mean differences that the test of p does not reject at 5 %, before "
        "Holm's adjustment: in 95 of 100 repetitions the true one is among them. If "
        "zero is inside, the sign of the difference is open.",
        ("95 % interval",),
    ),
    "p": Term(
        "p, Holm",
        "The probability of a difference at least as large if there were none, made "
        "larger for the number of arms compared (Holm). Below 0.05 it is called "
        "significant. A dash: fewer than six pairs, or no spread.",
        ("p", "p, Holm"),
    ),
    "sign-flip": Term(
        "p, sign flip",
        "An exact test: the share of all choices of signs of the paired differences "
        "that give a mean at least as far from zero.",
        ("p, sign flip",),
    ),
    "signed-rank": Term(
        "p, signed rank",
        "Wilcoxon's exact test, which uses the ranks of the differences alone and is "
        "not moved by a single large one.",
        ("p, signed rank",),
    ),
    "verdict": Term(
        "verdict",
        "Better or worse: significantly so after Holm's adjustment. Equivalent: not, "
        "and the difference is shown to lie within the margin. Not resolved: neither "
        "is shown. Too few pairs, no spread: there is no test.",
        ("verdict", "Verdict*"),
    ),
    "margin": Term(
        "margin",
        "The largest difference of no practical importance, declared before the run.",
        ("margin*",),
    ),
    "tost": Term(
        "p, TOST",
        "Two one-sided t tests. Below 0.05 the true difference lies within the margin: "
        "the arms are equivalent.",
        ("p, TOST",),
    ),
    "mde": Term(
        "MDE",
        "Minimum detectable effect: the smallest true difference that a run of this "
        "size and spread finds significant in 80 of 100 repetitions.",
        ("MDE*", "Could detect"),
    ),
    "binomial": Term(
        "binomial 95 %",
        "The exact interval of an accuracy on a test split of this size, whatever the "
        "seeds do (Clopper and Pearson).",
        ("binomial 95 %",),
    ),
    "rank": Term(
        "mean rank",
        "Place of an arm among those without ablations in each unit, averaged; 1 is "
        "best.",
        ("mean rank",),
    ),
    "sd": Term("± sd", "After ±: the standard deviation over the seeds.", ("*± sd",)),
    "a-b": Term(
        "a and b",
        "The trained numbers of APALU: a scales the side of positive inputs, b the "
        "side of negative ones.",
        ("layer",),
    ),
    "diverged": Term(
        "diverged",
        "The loss of a run became infinite or no number. It counts with the chance "
        "level and is not left out.",
    ),
    "floor": Term(
        "floor", "The smallest value that a and b may take; they are held there."
    ),
    "dead": Term(
        "dead layer",
        "A layer whose activation has a slope below 0.001 for at least 99.9 % of its "
        "inputs on the test split: it passes next to nothing on, and learns no more.",
    ),
}


def anchor_of(heading: str) -> str:
    """The anchor of the term that explains a heading; "" without one."""
    for key, term in TERMS.items():
        if any(fnmatchcase(heading, pattern) for pattern in term.headings):
            return key
    return ""
