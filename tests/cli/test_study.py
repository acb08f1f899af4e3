"""Several methods trained alike, the learning rate chosen by held-out images, and the tables."""

import json

import pytest
import yaml

from robust_clip.cli import main
from robust_clip.cli.study_plan import StudyPlan


@pytest.fixture
def content(tiny_checkpoint, coloured_folder, tmp_path):
    """A study of two methods with two learning rates, one of which learns nothing."""
    training = {"max_steps": 3, "per_device_train_batch_size": 8, "report_to": "none", "disable_tqdm": True}
    return {
        "output_dir": str(tmp_path / "study"),
        "recipe": {
            "model": str(tiny_checkpoint),
            "attack": {"name": "pgd", "steps": 1, "step_size": "4/255"},
            "threat_model": {"norm": "linf", "epsilon": "4/255"},
            "data": {"train": str(coloured_folder), "split": "train:fit"},
            "training": training | {"optim": "sgd", "logging_steps": 1},
        },
        "methods": {
            "tecoa": {"objective": "tecoa", "seeds": [0, 1]},
            "clean": {"objective": "clean", "attack": None, "threat_model": None},
        },
        "learning_rates": [1e-9, 0.3],
        "selection": {"protocol": "clean", "datasets": [str(coloured_folder)], "split": "train:validation"},
        "evaluation": [{"protocol": "pgd20", "datasets": [str(coloured_folder)], "epsilons": ["4/255"], "samples": 9}],
    }


def run(content, tmp_path, *more):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    return main(["study", str(tmp_path / "study.yaml"), *more])


def test_a_folder_of_data_sets_that_is_not_there_is_refused_before_anything_is_trained(content, tmp_path, capsys):
    assert run(content, tmp_path, "--root", str(tmp_path / "nothere")) == 2
    assert "nothere' is not there" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--methods", "tecoo"], "Unknown method 'tecoo'; did you mean tecoa? The study has: clean, tecoa."),
        (["--render", "rows", "--methods", "tecoa"], "leave --methods and --root out"),
        (["--render", "rows", "--root", "data"], "leave --methods and --root out"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_trained(content, tmp_path, capsys, options, told):
    assert run(content, tmp_path, *options) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_a_study_trains_chooses_measures_and_goes_on(content, tmp_path, capsys):
    assert run(content, tmp_path) == 0
    printed = capsys.readouterr().out
    rows = sorted((tmp_path / "study" / "rows").rglob("row.json"))
    # Three that were trained and chosen, the original, and two methods by two rates on held-out images.
    assert len(rows) == 4 + 4
    for method, seeds in (("tecoa", 2), ("clean", 1)):
        scores = {}
        for folder in (tmp_path / "study" / "rows").glob(f"{method}_seed_0_*"):
            (row,) = folder.glob("*-train_validation/*/row.json")
            scores[folder.name.rpartition("_")[2]] = json.loads(row.read_text())["clean_accuracy"]
        best = max(scores, key=scores.get)
        assert f"{method}: learning rate {best} chosen" in printed
        chosen = (tmp_path / "study" / "rows").glob(f"{method}_seed_*_learning_rate_{best}/*-test")
        assert len(list(chosen)) == seeds
    assert printed.count("<summary>Held-out images, by which learning rates are chosen. Protocol clean v1") == 1
    original = next(path for path in rows if "original" in path.parts)
    other = json.loads(original.read_text())
    original.write_text(json.dumps(other | {"versions": other["versions"] | {"robust-clip": "0.1.0+g11111111"}}))
    before = {path: path.stat().st_mtime_ns for path in rows}
    table = tmp_path / "table.md"
    table.write_text("<!-- rows:begin -->\n<!-- rows:end -->\n")
    assert run(content, tmp_path, "--into", str(table)) == 0
    assert {path: path.stat().st_mtime_ns for path in rows} == before
    assert table.read_text().count("| tecoa | 2 |") == 1
    assert table.read_text().count("Measured by robust-clip 0.1.0+g11111111, not by ") == 2  # means and rows
    assert "Measured by" not in printed
    capsys.readouterr()
    kept = (tmp_path / "study" / "rows").rename(tmp_path / "kept")
    assert run(content, tmp_path, "--render", str(kept)) == 0
    assert capsys.readouterr().out.strip() == table.read_text().split("-->\n")[1].split("<!--")[0].strip()
    assert not (tmp_path / "study" / "rows").exists()
    assert run(content, tmp_path, "--render", str(kept), "--means") == 0
    means = capsys.readouterr().out
    assert means.count("Measured by robust-clip 0.1.0+g11111111, not by ") == 1
    assert "| tecoa | 2 |" in means
    assert "learning_rate" not in means
    assert run(content | {"methods": {"fare": content["methods"]["tecoa"]}}, tmp_path, "--render", str(kept)) == 0
    for path in kept.rglob("row.json"):
        path.write_text(path.read_text().replace('"original"', '"other"'))
    assert run(content | {"methods": {"fare": content["methods"]["tecoa"]}}, tmp_path, "--render", str(kept)) == 2
    assert "No row is of a method of this study, which has fare." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"learning_rates": [0.1]}, "differs in learning_rates."),
        ({"methods": {"tecoa": {"objective": "tecoa", "seeds": [5]}}}, "differs in methods.tecoa."),
        ({"methods": {"tecoa": {"objective": "clean"}}, "recipe": {}}, "differs in methods.tecoa, recipe."),
    ],
)
def test_another_study_in_the_same_folder_is_refused(content, tmp_path, capsys, change, told):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.yaml").write_text(yaml.safe_dump(content | change))
    assert run(content, tmp_path) == 2
    assert told in capsys.readouterr().err


def test_root_is_where_training_data_are_looked_for_too(content, coloured_folder, tmp_path, capsys):
    content["recipe"]["data"] = {"train": coloured_folder.name, "root": "nowhere", "split": "train:fit"}
    content |= {"methods": {"clean": content["methods"]["clean"]}, "learning_rates": [1e-9]}
    content["evaluation"] = [{"protocol": "clean", "datasets": [coloured_folder.name]}]
    assert run(content, tmp_path) == 2
    assert "The folder of data sets 'nowhere' is not there" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()
    assert run(content, tmp_path, "--root", str(coloured_folder.parent)) == 0


def test_without_a_shared_checkpoint_there_is_no_original(content, tmp_path):
    recipe = content["recipe"]
    small = content | {
        "recipe": {section: value for section, value in recipe.items() if section != "model"},
        "methods": {"clean": content["methods"]["clean"] | {"model": recipe["model"]}},
        "learning_rates": [1e-9],
        "evaluation": [content["evaluation"][0] | {"protocol": "clean", "epsilons": []}],
    }
    assert run(small, tmp_path) == 0
    assert [path.name for path in (tmp_path / "study" / "rows").iterdir()] == ["clean_seed_0_learning_rate_1e-09"]


def test_another_number_of_images_is_another_study(content, tmp_path, capsys):
    (tmp_path / "study").mkdir()
    fewer = content["evaluation"][0] | {"samples": 5}
    (tmp_path / "study" / "study.yaml").write_text(yaml.safe_dump(content | {"evaluation": [fewer]}))
    assert run(content, tmp_path) == 2
    assert f"differs in pgd20 on {fewer['datasets'][0]} (test)." in capsys.readouterr().err


def test_a_study_may_grow_by_methods_seeds_and_measurements(content, tmp_path):
    small = content | {
        "methods": {"clean": content["methods"]["clean"], "tecoa": {"objective": "tecoa", "seeds": [0]}},
        "learning_rates": [1e-9],
        "evaluation": [content["evaluation"][0] | {"protocol": "clean", "epsilons": []}],
    }
    assert run(small, tmp_path, "--methods", "tecoa") == 0
    rows = tmp_path / "study" / "rows"
    before = {path: path.stat().st_mtime_ns for path in rows.rglob("row.json")}
    assert len(before) == 1
    grown = small | {
        "methods": {"tecoa": content["methods"]["tecoa"], "mart": {"objective": "mart"}},
        "evaluation": small["evaluation"] + content["evaluation"],
    }
    assert run(grown, tmp_path, "--methods", "tecoa") == 0
    assert len(list(rows.rglob("row.json"))) == 4
    assert {path: path.stat().st_mtime_ns for path in before} == before
    kept = yaml.safe_load((tmp_path / "study" / "study.yaml").read_text())
    assert set(kept["methods"]) == {"clean", "tecoa", "mart"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seeds": []}, "needs seeds"),
        ({"methods": {}}, "needs methods"),
        ({"methods": ["tecoa"]}, "methods must map names to sections, got ['tecoa']"),
        ({"learning_rates": []}, "needs learning_rates"),
        ({"learning_rates": [0.0]}, "must be positive"),
        ({"learning_rates": ["big"]}, "must be positive numbers, got ['big'"),
        ({"learning_rates": 0.1}, "must be a list, got 0.1"),
        ({"methods": {"tecoa": None}}, "The method tecoa must be a mapping of sections, got None"),
        ({"methods": {"tecoa": {"objective": "tecoa", "seeds": []}}}, "seeds of tecoa are an empty list"),
        ({"methods": {"tecoa": {"objective": "tecoa", "learning_rates": []}}}, "learning_rates of tecoa are an empty"),
        ({"methods": {"tecoa": {"objective": "tecoa", "learning_rates": [-1]}}}, "learning_rates must be positive"),
        ({"methods": {"tecoa": {"objective": "tecoa", "attacks": 1}}}, "Unknown section 'attacks'"),
        ({"methods": {"tecoa": {"objective": "nope"}}}, "Unknown objective 'nope'"),
        ({"selection": {"protocol": "clean", "datasets": ["x"], "split": "train:fit"}}, "is held out of training"),
        ({"selection": {"protocol": "clean", "datasets": ["x"]}}, "chosen by 'test': what chooses is held out"),
        ({"methods": {"tecoa": {"objective": "tecoa", "data": {"split": "train"}}}}, "trained on the split 'train'"),
        ({"seeds": [0, 0], "methods": {"tecoa": {"objective": "tecoa"}}}, "seeds of tecoa are not all different"),
        ({"evaluation": [{"protocol": "clean", "datasets": ["x"], "only": ["fare"]}]}, "names ['fare']"),
        ({"evaluation": [{"protocol": "nope", "datasets": ["x"]}]}, "nope"),
        ({"evaluation": [{"protocol": "clean", "datasets": []}]}, "needs datasets"),
        ({"evaluation": [{"protocol": "clean", "datasets": "cifar10"}]}, "a list, got 'cifar10'; write [cifar10]"),
        ({"evaluation": [{"protocol": "pgd20", "datasets": ["x"], "epsilons": "2/255"}]}, "write [2/255]"),
        ({"evaluation": [{"protocol": "clean", "datasets": ["./nothere"]}]}, "nothere"),
        ({"evaluation": [{"protocol": "clean", "datasets": {"x": {"nam": "y"}}}]}, "Unknown key 'nam' in sec"),
        ({"colour": 1}, "Unknown key 'colour'"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(content, tmp_path, capsys, change, told):
    assert run(content | change, tmp_path) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_methods_change_the_shared_recipe_key_by_key(content, tmp_path):
    methods = {"tecoa": {"objective": "tecoa", "attack": {"steps": 7}, "training": {"max_steps": 9}}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content | {"methods": methods}))
    recipe = StudyPlan.read(tmp_path / "study.yaml").run("tecoa", 0.5, 3).recipe
    assert recipe["attack"] == {"name": "pgd", "steps": 7, "step_size": "4/255"}
    assert (recipe["training"]["max_steps"], recipe["training"]["optim"]) == (9, "sgd")
    assert (recipe["training"]["learning_rate"], recipe["training"]["seed"]) == (0.5, 3)


def test_a_method_may_have_its_own_grid(content, tmp_path):
    methods = {"tecoa": {"objective": "tecoa"}, "slow": {"objective": "tecoa", "learning_rates": [0.5], "seeds": [4]}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content | {"methods": methods}))
    plan = StudyPlan.read(tmp_path / "study.yaml")
    assert [(run.learning_rate, run.seed) for run in plan.grid("slow")] == [(0.5, 4)]
    assert [(run.learning_rate, run.seed) for run in plan.grid("tecoa")] == [(1e-9, 0), (0.3, 0)]


def test_some_classes_are_measured_under_a_name_of_their_own(content, coloured_folder, tmp_path, capsys):
    two = {"two": {"name": str(coloured_folder), "classes": ["red", "blue"]}}
    evaluation = [*content["evaluation"], {"protocol": "clean", "datasets": two, "split": "test"}]
    methods = {"tecoa": {"objective": "tecoa", "learning_rates": [0.3]}}
    assert run(content | {"methods": methods, "evaluation": evaluation}, tmp_path, "--methods", "tecoa") == 0
    printed = capsys.readouterr().out
    assert "| two | tecoa_seed_0_learning_rate_0.3 | 16 |" in printed
    assert printed.count("| method | seeds |") == 1
    (row,) = (tmp_path / "study" / "rows").glob("*/two-test/**/row.json")
    assert json.loads(row.read_text())["dataset"]["name"] == "two"


def test_first_seeds_of_all_methods_come_first(content, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    order = [("tecoa", 0), ("clean", 0), ("tecoa", 1)]
    assert list(StudyPlan.read(path).by_seed(["tecoa", "clean"])) == order
