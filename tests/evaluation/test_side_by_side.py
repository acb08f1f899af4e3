"""Which rows are compared, what is marked as best, and the means."""

from dataclasses import replace
from itertools import permutations

import pytest

from robust_clip.evaluation import get_protocol, wilson_interval
from robust_clip.evaluation.side_by_side import group_rows, make_table, protocol_tables


@pytest.fixture
def counted(row):
    """A row from counts of images: `counted("clip", "mnist", "4/255", clean=8, robust=2, n=10)`."""

    def make(model, dataset, epsilon, *, clean, robust, n=100, **changes):
        return row(
            model={"id": model, "revision": f"sha256:{model}"},
            dataset=row().dataset | {"name": dataset},
            protocol=get_protocol("pgd20", epsilon=epsilon).as_dict(),
            threat_model=f"linf {epsilon}",
            n=n,
            clean_accuracy=clean / n,
            clean_interval=wilson_interval(clean, n),
            robust_accuracy=robust / n,
            robust_interval=wilson_interval(robust, n),
            **changes,
        )

    return make


def table_of(rows):
    ((measure, group),) = group_rows(rows).items()
    return make_table(measure, group)


def cells_of(table):
    return {(line.dataset, line.model): line.cells for line in table.lines}


def test_a_number_is_best_only_if_no_interval_overlaps_its_own(counted):
    table = table_of(
        [
            counted("good", "mnist", "1/255", clean=52, robust=50),
            counted("bad", "mnist", "1/255", clean=50, robust=10),
            counted("worse", "mnist", "1/255", clean=48, robust=0),
            counted("bad", "gtsrb", "1/255", clean=90, robust=80),
        ]
    )
    best = {place: [cell.best for cell in cells] for place, cells in cells_of(table).items()}
    assert best.pop(("mnist", "good")) == [False, True]
    assert list(best.values()) == [[False, False]] * 3


def test_intervals_that_touch_overlap(counted):
    low = counted("low", "mnist", "1/255", clean=50, robust=10)
    high = counted("high", "mnist", "1/255", clean=50, robust=40)
    assert cells_of(table_of([low, high]))["mnist", "high"][1].best
    touching = replace(low, robust_interval=(0.0, high.robust_interval[0]))
    assert not cells_of(table_of([touching, high]))["mnist", "high"][1].best


def test_a_number_whose_check_failed_is_never_best_and_is_marked(counted):
    rows = [
        counted("good", "mnist", "1/255", clean=90, robust=80, checks=["the attack is blind"]),
        counted("bad", "mnist", "1/255", clean=10, robust=5, substituted=["DLR by margin"]),
    ]
    cells = cells_of(table_of(rows))
    clean, robust = cells["mnist", "good"]
    assert (clean.best, clean.doubtful) == (True, False)
    assert (robust.best, robust.doubtful) == (False, True)
    assert cells["mnist", "bad"][1].doubtful


def test_means_are_unweighted(counted):
    table = table_of(
        [
            counted("a", "mnist", "1/255", clean=80, robust=40),
            counted("a", "gtsrb", "1/255", clean=300, robust=100, n=1000),
            counted("b", "mnist", "1/255", clean=60, robust=20),
            counted("b", "gtsrb", "1/255", clean=50, robust=20),
        ]
    )
    means = {line.model: [str(cell) for cell in line.cells] for line in table.means}
    assert means == {"a": ["55.0", "25.0"], "b": ["55.0", "20.0"]}
    assert [name for name, _ in table.groups] == ["gtsrb", "mnist", "unweighted mean"]


def test_no_mean_over_different_data_sets(counted):
    rows = [
        counted("a", "mnist", "1/255", clean=80, robust=40),
        counted("a", "gtsrb", "1/255", clean=30, robust=10),
        counted("a", "gtsrb", "4/255", clean=30, robust=5),
        counted("b", "mnist", "1/255", clean=60, robust=20),
        counted("b", "gtsrb", "1/255", clean=50, robust=20),
        counted("b", "mnist", "4/255", clean=60, robust=10),
    ]
    assert [[str(cell) for cell in line.cells] for line in table_of(rows).means] == [
        ["55.0", "25.0", ""],
        ["55.0", "20.0", ""],
    ]
    assert not table_of([row for row in rows if row.dataset["name"] == "mnist"]).means


def test_a_mean_over_fewer_sets_says_so(counted):
    rows = [counted("a", name, "1/255", clean=80, robust=40) for name in ("mnist", "gtsrb", "cifar10")]
    rows += [counted("a", name, "4/255", clean=80, robust=20) for name in ("mnist", "gtsrb")]
    (line,) = table_of(rows).means
    assert [str(cell) for cell in line.cells] == ["80.0", "40.0", "20.0 (2 sets)"]


def test_different_numbers_of_images_are_shown(counted):
    rows = [
        counted("a", "mnist", "1/255", clean=6, robust=5, n=10),
        counted("a", "mnist", "4/255", clean=70, robust=20, n=100),
    ]
    (line,) = table_of(rows).lines
    assert line.images == "10, 100"
    assert [cell.value for cell in line.cells] == ["70.0", "50.0", "20.0"]
    assert [cell.note.split("] ")[1] for cell in line.cells] == ["n=100", "n=10", "n=100"]


def test_attacks_on_texts_have_no_epsilon(row):
    text = {"attack": "BERTAttack", "parameters": {"masked_lm": "bert-base-uncased", "k": 10}}
    protocol = row().protocol | {"attacks": [], "threat_model": None, "text_attack": text}
    table = table_of([row(protocol=protocol, threat_model=None)])
    assert table.columns == ("clean", "robust")
    assert "texts by BERTAttack with bert-base-uncased" in table.measure
    assert table.lines[0].cells[1].value == "25.0"


def test_nothing_attacked_no_robust_column(row):
    nothing = {"threat_model": None, "robust_accuracy": None, "robust_interval": None}
    assert table_of([row(protocol=get_protocol("clean").as_dict(), **nothing)]).columns == ("clean",)


@pytest.mark.parametrize(
    "field",
    [
        {"temperature": 0.05},
        {"compiled": True},
        {"samples": 10, "sample_choice": "first"},
        {"text_attack": {"attack": "LEAF", "parameters": {}}},
        {"version": 2},
        {"test_time_defence": {"defence": "TTC", "parameters": {"steps": 5}, "attacks_know": True}},
        {"attacks": [run | {"eot_samples": 4} for run in get_protocol("pgd20").as_dict()["attacks"]]},
    ],
)
def test_what_changes_the_number_makes_another_table(row, field):
    assert len(group_rows([row(), row(protocol=row().protocol | field)])) == 2


def test_protocols_stand_side_by_side_where_all_but_their_attacks_is_alike(counted):
    def by(name, **changes):
        row = counted("a", "mnist", "1/255", clean=80, robust=40)
        return replace(row, protocol=get_protocol(name, epsilon="1/255").as_dict() | changes)

    rows = [by("autoattack_standard"), by("pgd20"), by("cw"), by("tecoa"), by("apgd_ce", precision="bf16")]
    rows += [by("tecoa_aa", native_datasets=["mnist"])]
    rows += [counted("b", "mnist", "1/255", clean=80, robust=30)]
    (table,) = protocol_tables(rows)
    assert table.measure.startswith("Protocols side by side, linf, native grid")
    assert table.columns == ("clean", "pgd20 v1", "cw v1", "autoattack_standard v1", "tecoa_aa v1")
    ((dataset, model, images, cells),) = [(each.dataset, each.model, each.images, each.cells) for each in table.lines]
    assert (dataset, model, images) == ("mnist, linf 1/255", "a", "100")
    assert [cell.value for cell in cells] == ["80.0", "40.0", "40.0", "40.0", "40.0"]
    assert protocol_tables([by("pgd20")]) == []
    assert protocol_tables([by("pgd20"), by("cw", samples=100, sample_choice="robustbench")]) == []


@pytest.mark.parametrize("field", ["revision", "prompts"])
def test_protocols_on_one_line_are_of_one_data_set(counted, field):
    row = counted("a", "mnist", "1/255", clean=80, robust=40)
    pgd, cw = (replace(row, protocol=get_protocol(name, epsilon="1/255").as_dict()) for name in ("pgd20", "cw"))
    with pytest.raises(ValueError, match=r"mnist stands for two data sets.*another"):
        protocol_tables([pgd, replace(cw, dataset=cw.dataset | {field: "another"}), pgd, cw])
    elsewhere = replace(cw, model=cw.model | {"id": "b"}, dataset=cw.dataset | {field: "another"})
    assert protocol_tables([pgd, elsewhere]) == []  # no line has two protocols, so nothing is compared


def test_a_name_stands_for_one_way_to_run_its_weights(row):
    """Rows from before settings were recorded tell no difference."""
    gelu, quick = (row(model=row().model | {"settings": {"hidden_act": name}}) for name in ("gelu", "quick_gelu"))
    group_rows([row(), gelu, row()])
    for rows in permutations([row(), gelu, quick]):
        with pytest.raises(ValueError, match=r"two models in these rows, whose settings.hidden_act is '\w*gelu'"):
            group_rows(rows)


def test_defences_with_other_parameters_are_not_compared(row):
    def defended(steps):
        return {"test_time_defence": {"defence": "TTC", "parameters": {"steps": steps}, "attacks_know": True}}

    groups = group_rows([row(protocol=row().protocol | defended(steps)) for steps in (2, 5)])
    told = [measure.split("judged through ")[1].split(",")[0] for measure in groups]
    assert told == ["TTC(steps=2)", "TTC(steps=5)"]


@pytest.mark.parametrize("field", ["revision", "prompts"])
def test_a_name_stands_for_one_data_set(row, field):
    other = row(model={"id": "b", "revision": "b"}, dataset=row().dataset | {field: "another"})
    with pytest.raises(ValueError, match=r"coloured stands for two data sets.*another"):
        table_of([row(), other])


def test_class_names_in_a_learned_context_are_not_compared_with_sentences(counted, row):
    plain = counted("full", "mnist", "1/255", clean=60, robust=40)
    learned = replace(plain, model={"id": "context", "revision": "a"}, dataset=plain.dataset | {"templates": ["{}."]})
    told = ["learned context" in measure for measure in group_rows([plain, learned])]
    assert told == [False, True]
