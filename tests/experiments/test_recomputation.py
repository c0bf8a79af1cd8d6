"""Every number of the committed tables, computed again from the records by plain code.

Sign patterns and subsets are enumerated, t distributions are those of scipy; nothing of
the analysis is used. A printed number may be off by half a unit of its last digit.
"""

import gzip
import json
import math
import re

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from apalu_jax.experiments import results

from .helpers import RESULTS
from .plain_statistics import (
    detectable,
    detectable_by_t,
    flips,
    holm,
    interval,
    p_main,
    p_tost,
    signed_ranks,
    t_error,
)

FOLDERS = sorted((RESULTS / "experiments").glob("*/"))
FAST = {"cnn-mnist", "distillation-ad"}  # without and with units


class Values:
    """Values of a metric in a variant by arm, unit and seed, from the raw lines."""

    def __init__(self, folder, spec, variant, metric):
        self.spec, self.metric, self.variant = spec, metric, variant
        self.values, self.examples = {}, {}
        lines = gzip.open(folder / "records.jsonl.gz").read().splitlines()
        for run in map(json.loads, lines):
            if run.get("kind") == "search" or run.get("variant", "") != variant:
                continue
            value = run["value"]
            if metric.name != spec.metric.name:
                value = run["history"]["test"][metric.name]
            place = run["arm"], run.get("unit", ""), run["seed"]
            self.values[place] = math.log(value) if metric.relative else value
            self.examples[run["arm"]] = run["history"]["examples"]

    def observations(self, arm, units, pair_by):
        keys = range(self.spec.seeds) if pair_by == "seed" else units
        return np.array([self._mean(arm, units, key, pair_by) for key in keys])

    def _mean(self, arm, units, key, pair_by):
        if pair_by == "seed":
            return np.mean([self.values[arm, unit, key] for unit in units])
        return np.mean([self.values[arm, key, seed] for seed in range(self.spec.seeds)])

    def differences(self, arm, units, pair_by):
        ours = self.observations(self.spec.reference, units, pair_by)
        return ours - self.observations(arm, units, pair_by)

    @property
    def size(self):
        return max(1.0, *map(abs, self.values.values()))


def near(cell, value, digits=None):
    """A printed number, with two decimal places or so many significant digits."""
    half = 0.5e-2
    if digits is not None and value:
        half = 0.5 * 10.0 ** (math.floor(math.log10(abs(value))) - digits + 1)
    assert abs(float(cell) - value) <= half * (1 + 1e-6) + 1e-12, (cell, value)


def near_difference(cell, d, metric):
    """A printed difference, or standard deviation of differences."""
    if metric.relative:
        near(cell, 100 * math.expm1(d))
    elif metric.percent:
        near(cell, 100 * d)
    else:
        near(cell, d, digits=3)


def near_value(cell, value, metric):
    near(cell, 100 * value if metric.percent else value, None if metric.percent else 4)


def near_p(cell, p):
    if cell == "<0.0001":
        assert p < 5e-5
    else:
        assert abs(float(cell) - p) <= 0.5e-4 * (1 + 1e-6), (cell, p)


def near_interval(cell, ends, metric):
    for text, end in zip(cell.split(" to "), ends, strict=True):
        near_difference(text, end, metric)


def near_effect(cell, d, ratio, comparisons, metric):
    if ratio:
        effect = detectable_by_t(len(d), comparisons) * t_error(d, ratio)
        near_difference(cell, effect, metric)
        return
    effect = detectable(len(d), comparisons) * np.std(d, ddof=1)
    shown = math.expm1(effect) if metric.relative else effect
    scale = 100 if metric.relative or metric.percent else 1
    # The simulations here and there are off by half a percent each.
    assert float(cell) == pytest.approx(scale * shown, rel=0.015, abs=0.006)


def sections(folder):
    """Tables by metric and variant: lists of rows by heading."""
    text = (folder / "report.md").read_text()
    for title, body in re.findall(r"^## Test (.+)\n((?:(?!^## ).*\n)*)", text, re.M):
        name, _, variant = title.partition(", variant ")
        tables = []
        for block in re.findall(r"((?:^\|.*\n)+)", body, re.M):
            lines = [
                [cell.strip() for cell in line.strip().strip("|").split("|")]
                for line in block.splitlines()
            ]
            head, _, *rows = lines
            tables.append([dict(zip(head, row, strict=True)) for row in rows])
        yield name, variant, tables, body


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(f, id=f.name, marks=[pytest.mark.slow] * (f.name not in FAST))
        for f in FOLDERS
    ],
)
def test_printed_statistics(folder):
    spec = results.read(folder).spec
    metrics = {metric.name: metric for metric in spec.metrics}
    checked = 0
    for name, variant, (main, *others), body in sections(folder):
        values = Values(folder, spec, variant, metrics[name])
        ratios = {u: spec.at(variant, u).test_train_ratio for u in spec.unit_names}
        ratio = max(ratios.values()) if spec.pair_by == "seed" else 0.0
        checked += check_arms(values, main, ratio)
        checked += check_ranks(values, main, body)
        for table in others:
            if "unit" in table[0]:
                checked += check_units(values, table, ratios)
            else:
                checked += check_left_out(values, table)
    assert checked > 50


def check_arms(values, table, ratio):
    spec, metric = values.spec, values.metric
    units, others = spec.unit_names, [a for a in spec.all_arms if a != spec.reference]
    assert {row["activation"] for row in table} == {*spec.all_arms}
    compared = {arm: values.differences(arm, units, spec.pair_by) for arm in others}
    p = {arm: p_main(d, values.size, ratio) for arm, d in compared.items()}
    family = holm({arm: p[arm] for arm in others if arm in spec.arms})
    for row in table:
        arm = row["activation"]
        own = values.observations(arm, units, spec.pair_by)
        mean, _, sd = row[metric.label].partition(" ± ")
        shown = math.exp(own.mean()) if metric.relative else own.mean()
        near_value(mean, shown, metric)
        if sd and metric.relative:
            near_difference(sd.removesuffix(" %"), own.std(ddof=1), metric)
        elif sd:
            near_value(sd, own.std(ddof=1), metric)
        if row.get("binomial 95 %", "-") != "-":
            trials = values.examples[arm]
            right = round(shown * trials)
            low = scipy.stats.beta.ppf(0.025, right, trials - right + 1)
            high = scipy.stats.beta.ppf(0.975, right + 1, trials - right)
            cell = f"{100 * low:.1f} to {100 * high:.1f}"
            assert row["binomial 95 %"] == cell
        if arm == spec.reference:
            continue
        d = compared[arm]
        near_difference(row[f"{spec.reference} - it"], d.mean(), metric)
        near_interval(row["95 % interval"], interval(d, ratio), metric)
        near_p(row["p"], p[arm])
        if arm in family:
            near_p(row["p, Holm"], family[arm])
        else:
            assert row["p, Holm"] == "-"
        if ratio:
            near_p(row["p, sign flip"], flips(d, values.size))
        near_p(row["p, signed rank"], signed_ranks(d, values.size))
        near_p(row["p, TOST"], p_tost(d, metric.margin, ratio))
        near_effect(row["MDE, 80 % power"], d, ratio, len(spec.arms) - 1, metric)
    return 8 * len(table)


def check_ranks(values, table, body):
    """Mean ranks among the arms without ablations, and Friedman's test."""
    spec = values.spec
    if "mean rank" not in table[0]:
        return 0
    means = np.array(
        [values.observations(arm, spec.unit_names, "unit") for arm in spec.arms]
    )
    better = -means if values.metric.higher_is_better else means
    ranks = np.array(
        [
            (better < row).sum(axis=0) + ((better == row).sum(axis=0) + 1) / 2
            for row in better
        ]
    )
    printed = {row["activation"]: row["mean rank"] for row in table}
    for arm, mean in zip(spec.arms, ranks.mean(axis=1), strict=True):
        near(printed[arm], mean)
    assert {printed[arm] for arm in spec.ablations} <= {"-"}
    friedman = re.search(r"they all rank alike: p = ([\d.e-]+?)\.$", body, re.M)
    if friedman:
        k, n = ranks.shape
        statistic = (
            12
            * n
            / (k * (k + 1))
            * ((ranks.mean(axis=1) ** 2).sum() - k * (k + 1) ** 2 / 4)
        )
        near(friedman[1], scipy.stats.chi2.sf(statistic, k - 1), digits=2)
    return len(spec.arms)


def check_units(values, table, ratios):
    spec, metric = values.spec, values.metric
    for row in table:
        unit = row["unit"]
        for arm in spec.all_arms:
            if arm != spec.reference:
                d = values.differences(arm, [unit], "seed")
                mean, ends = re.fullmatch(r"(\S+) \((.+)\)", row[arm]).groups()
                near_difference(mean, d.mean(), metric)
                near_interval(ends, interval(d, ratios[unit]), metric)
    return len(table) * len(spec.all_arms)


def check_left_out(values, table):
    spec, metric = values.spec, values.metric
    for row in table:
        units = [u for u in spec.unit_names if u != row["left out"]]
        others = [a for a in spec.all_arms if a != spec.reference]
        compared = {arm: values.differences(arm, units, "unit") for arm in others}
        p = {a: flips(d, values.size) for a, d in compared.items() if a in spec.arms}
        adjusted = holm(p)
        for arm, d in compared.items():
            mean, ends, star = re.fullmatch(r"(\S+) \((.+)\)( \*)?", row[arm]).groups()
            near_difference(mean, d.mean(), metric)
            near_interval(ends, interval(d, 0.0), metric)
            assert bool(star) == (adjusted.get(arm, 1.0) <= 0.05)
    return len(table) * len(spec.all_arms)
