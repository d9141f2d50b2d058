"""The second study's tables are those of its committed records, judged by the rules."""

import itertools
from dataclasses import replace

import pytest
from scipy.stats import fisher_exact

from hdmlib.paths import PROJECT_ROOT
from hdmlib.study.choice import CHOSEN
from hdmlib.study.claims import fig2_by_rate, fig2_outcomes, wobbles
from hdmlib.study.grounds import COMPARED, PEOPLE, PRETRAINED, PRETRAINED_LONG, verdict
from hdmlib.study.results import published_of
from hdmlib.study.rules import FIG2_RATE_SEEDS, SEEDS
from hdmlib.study.second import every_difference_text, score_lines, second_text
from hdmlib.study.stages import FIG2_LABELS, second_fig2, second_fig2_mpii, second_fig2_rates, second_finals


@pytest.fixture(scope="module")
def records():
    return published_of(second_finals())


@pytest.mark.parametrize(
    ("page", "marker", "written"),
    [("README.md", "second", second_text), ("notebooks/RESULTS.md", "differences", every_difference_text)],
)
def test_the_tables_are_those_of_the_records(page, marker, written):
    stated = (PROJECT_ROOT / page).read_text().partition(f"<!-- {marker} -->\n")[2].partition(f"<!-- /{marker} -->")[0]
    assert stated.rstrip() == written().rstrip(), "python notebooks/refresh.py README writes them anew"


def test_fig_2_at_every_rate_compares_runs_of_the_same_rate_and_seeds():
    tuned, others = (published_of(stage(FIG2_RATE_SEEDS)) for stage in (second_fig2, second_fig2_rates))
    table = fig2_by_rate({**tuned, **others}, "PCKh@0.5")
    assert list(table.index) == list(itertools.product(FIG2_LABELS, (0.25, 0.5, 1.0, 2.0, 4.0)))
    doubled = {label: others[f"{label}, 2 x the rate"] for label in FIG2_LABELS}
    assert {record.identity["seed"] for record in doubled["matching"]} == set(FIG2_RATE_SEEDS)
    for factor, records in ((1.0, tuned), (2.0, doubled)):
        counted = table.xs(factor, level="factor")
        assert counted.drop(columns="score").equals(wobbles(records))
        for label, runs in records.items():
            last = [record.epochs[-1].validation.metrics["PCKh@0.5"] for record in runs]
            assert counted.loc[label, "score"] == pytest.approx(sum(last) / len(last))


def test_every_final_has_every_seed_and_metric(records):
    assert list(records) == list(CHOSEN)
    for runs in records.values():
        assert [record.identity["seed"] for record in runs] == list(SEEDS)
    for view in PEOPLE.views(records).values():
        assert not view[[*PEOPLE.metrics]].isna().any(axis=None)


def test_a_ground_counts_the_seeds_that_every_loss_has(records):
    assert PEOPLE.finals() == records
    ground = replace(PEOPLE, seeds=(0, 1, 99))  # nobody has trained seed 99
    found = ground.finals()
    assert {label: [run.identity["seed"] for run in runs] for label, runs in found.items()} == {
        label: [0, 1] for label in CHOSEN
    }
    text = "\n".join(score_lines(ground, found))
    assert "mean over 2 seeds" in text
    assert "Seeds run: 2 of the 3 that the rules ask for; there is no verdict yet" in text
    assert "Is the sum better" not in text


def test_same_reads_every_loss_by_one_decoder_and_one_confidence(records):
    same = PEOPLE.views(records)["same"].set_index(["label", "seed"])
    peak, mass = records["gaussian_mse"][0], records["matching"][0]
    assert same.loc[("gaussian_mse", 0), "AP"] == peak.other_confidence["barycentre"]["AP"]
    assert same.loc[("matching", 0), "AP"] == mass.by_decoder["barycentre"]["AP"]


def test_own_reads_a_loss_as_it_was_chosen(records):
    own = PEOPLE.views(records)["own"].set_index(["label", "seed"])
    assert own.loc[("gaussian_mse", 0), "AP"] == records["gaussian_mse"][0].by_decoder["dark"]["AP"]


def test_the_verdict_asks_every_difference_of_the_sum(records):
    label, others = "the sum", COMPARED["the sum"]
    found = {other: PEOPLE.minus(records, other)["outcome"] for other in others}
    better = all(
        found[other][view, label, metric] == "holds"
        for other, view, metric in itertools.product(others, ("own", "same"), ("AP", "PCKh@0.1"))
    )
    worse = any(
        found[other][view, label, metric] == "fails"
        for other, view, metric in itertools.product(others, ("own", "same"), ("PCKh@0.5", "mean error", "ECE"))
    )
    verdict_found, against = verdict(records)
    assert verdict_found == (better and not worse)
    must_hold = ("AP", "PCKh@0.1")
    for reason, word, metrics in (
        ("on the bad side", "fails", PEOPLE.sum_metrics),
        ("undecided", "undecided", must_hold),
    ):
        expected = {
            (metric, other): [view for view in ("own", "same") if found[other][view, label, metric] == word]
            for other, metric in itertools.product(others, metrics)
        }
        said = {
            f"{metric} against {other} ({', '.join(views)})" for (metric, other), views in expected.items() if views
        }
        assert set(against[reason]) == said


def test_what_could_not_have_been_shown_in_fig_2():
    """README and notebook 03: even no bad epoch of matching's would have been significant."""
    counts = wobbles(published_of(second_fig2()))
    bad, epochs = counts.loc["gaussian_mse", ["worse", "fell"]]
    others = counts.loc["matching", "fell"]
    p = fisher_exact([[0, others], [bad, epochs - bad]]).pvalue
    readme = " ".join((PROJECT_ROOT / "README.md").read_text().split())
    said = (
        f"the Gaussian's {bad:.0f} of {epochs:.0f} epochs, not even 0 of matching's {others:.0f} would be significant"
    )
    assert f"{said} (p = {p:.2f})" in readme
    notebook = (PROJECT_ROOT / "notebooks" / "03_loss_vs_pckh.ipynb").read_text()
    assert f"even not a single one among matching's {others:.0f} would have given $p = {p:.2f}$" in notebook


def test_what_is_said_of_fig_2_in_the_format_of_mpii():
    """README and notebook 03: the outcomes are those of the same people in COCO's format."""
    counts = wobbles(published_of(second_fig2_mpii()))
    assert fig2_outcomes(counts) == fig2_outcomes(wobbles(published_of(second_fig2())))
    gaussian, matching, letter = (
        "{worse:.0f} of {fell:.0f}".format(**counts.loc[label]) for label in ("gaussian_mse", "matching", "the letter")
    )
    gaussian_epochs = gaussian.replace(" of ", " of the ")
    readme = " ".join((PROJECT_ROOT / "README.md").read_text().split())
    assert f"{gaussian} epochs with the Gaussian, {matching} with matching, {letter} with the letter" in readme
    notebook = (PROJECT_ROOT / "notebooks" / "03_loss_vs_pckh.ipynb").read_text()
    p = counts["p"]
    assert f"falls in {gaussian_epochs} epochs in which the Gaussian's loss falls" in notebook
    assert f"falls in {matching}, which is not shown to differ ($p = {p['matching']:.2f}$)" in notebook
    assert f"({letter}, $p = {p['the letter']:.3f}$)" in notebook


def test_what_is_said_of_the_pretrained_network():
    """README and notebook 09: all are ahead of the Gaussian, and the sum cannot be told from cross-entropy."""
    finals = PRETRAINED.finals()
    from_gaussian, from_cross_entropy, from_matching = (
        PRETRAINED.minus(finals, other)["outcome"] for other in ("gaussian_mse", "cross_entropy", "matching")
    )
    for view in ("own", "same"):
        for label, metric in itertools.product(("the sum", "cross_entropy", "matching"), ("AP", "PCKh@0.5")):
            assert from_gaussian[view, label, metric] == "holds"
        assert {from_cross_entropy[view, "the sum", metric] for metric in PRETRAINED.sum_metrics} == {"undecided"}
        assert from_matching[view, "the sum", "PCKh@0.1"] == "holds"
    assert [from_matching[view, "the sum", "AP"] for view in ("own", "same")] == ["holds", "undecided"]
    scores = PRETRAINED.views(finals)["own"].pivot(index="seed", columns="label", values="AP")
    first, second, third = scores["the sum"] - scores["cross_entropy"]
    notebook = (PROJECT_ROOT / "notebooks" / "09_matching_and_likelihood.ipynb").read_text()
    assert f"its lead in AP is {first:.1f}, {second:.1f} and {third:.1f} points in the three seeds" in notebook


def test_what_is_said_of_twice_its_training():
    """README and notebook 09: all gain, the Gaussian the most, and matching's lead over it shrinks."""
    short, long = (
        ground.views(ground.finals())["own"].query("seed == 0").set_index("label")[["AP", "PCKh@0.5"]]
        for ground in (PRETRAINED, PRETRAINED_LONG)
    )
    gains = (long - short)["AP"]
    assert gains.round().between(4, 6).all()
    assert gains.idxmax() == "gaussian_mse"
    assert list(short["AP"].sort_values().index) == list(long["AP"].sort_values().index)
    assert long["PCKh@0.5"]["matching"] <= long["PCKh@0.5"]["gaussian_mse"]
    before, after = (scores["AP"]["matching"] - scores["AP"]["gaussian_mse"] for scores in (short, long))
    notebook = (PROJECT_ROOT / "notebooks" / "09_matching_and_likelihood.ipynb").read_text()
    assert f"matching is now {after:.1f} points ahead of the Gaussian, where it was {before:.1f}" in notebook
