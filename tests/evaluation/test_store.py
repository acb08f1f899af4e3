"""A folder of records is begun once, gone on from when asked, and never mixed with another evaluation's."""

import errno
import json
import os
from contextlib import contextmanager

import pytest

from robust_clip.evaluation import RecordStore, Row, Sample, get_protocol, read_samples, require_writable
from robust_clip.evaluation.records import library_versions
from robust_clip.evaluation.store import Journal

IDENTITY = {"model": {"id": "clip", "revision": "1"}, "protocol": {"name": "p", "samples": None}, "seed": 0}


@pytest.fixture
def store(tmp_path):
    return RecordStore(tmp_path / "records", "owner/photos", "test", get_protocol("pgd20", epsilon="4/255"))


def test_the_path_is_readable(store, tmp_path):
    assert store.folder == tmp_path / "records" / "owner_photos-test" / "pgd20-v1-linf-4_255"


def test_parts_come_back_with_their_seconds(store):
    store.begin(IDENTITY, resume=False)
    store.append([Sample(8, 1, 1), Sample(3)], seconds=1.5)
    store.append([Sample(4, 0, 0)], seconds=0.5)
    assert store.read_parts() == ([Sample(3), Sample(4, 0, 0), Sample(8, 1, 1)], 2.0)


def test_records_from_before_settings_were_recorded_are_gone_on_from(store):
    store.begin(IDENTITY, resume=False)
    store.append([Sample(8, 1, 1)], seconds=1.5)
    now = IDENTITY | {"model": IDENTITY["model"] | {"settings": {"hidden_act": "gelu"}}}
    assert store.begin(now, resume=True) is None
    later = now["model"] | {"settings": {"hidden_act": "quick_gelu"}}
    with pytest.raises(ValueError, match="model.settings.hidden_act is 'gelu' there and 'quick_gelu' here"):
        store.begin(now | {"model": later}, resume=True)


def test_the_furthest_state_of_a_sample_counts(store):
    store.begin(IDENTITY, resume=False)
    store.append([Sample(8, 1, 1, 1, withstood=1), Sample(4, 1, 1, 1, withstood=1), Sample(7, 1, 0)], seconds=1.0)
    store.append([Sample(8, 1, 1, 1, withstood=2), Sample(4, 1, 1, 0, "2-pgd-margin", withstood=1)], seconds=0.5)
    broken, wrong = Sample(4, 1, 1, 0, "2-pgd-margin", withstood=1), Sample(7, 1, 0)
    assert store.read_parts() == ([broken, wrong, Sample(8, 1, 1, 1, withstood=2)], 1.5)


def test_a_key_that_only_the_records_have_is_a_difference(store):
    compiled = IDENTITY | {"protocol": {"name": "p", "samples": None, "compiled": True}}
    store.begin(compiled, resume=False)
    store.append([Sample(0, 1, 1)], seconds=1.0)
    with pytest.raises(ValueError, match="protocol.compiled is True there and None here"):
        store.begin(IDENTITY, resume=True)


def test_what_is_said_of_a_protocols_origin_is_no_difference(store):
    said = {"protocol": {"name": "p", "samples": None, "source": "Section 4"}}
    store.begin(IDENTITY | said, resume=False)
    store.append([Sample(0, 1, 1)], seconds=1.0)
    said["protocol"]["source"] = "Section 4 and code"
    assert store.begin(IDENTITY | said, resume=True) is None
    assert store.read_parts() == ([Sample(0, 1, 1)], 1.0)
    with pytest.raises(ValueError, match="model.source is None there and 'elsewhere' here"):
        store.begin(IDENTITY | said | {"model": IDENTITY["model"] | {"source": "elsewhere"}}, resume=True)


def test_parts_of_other_code_are_not_gone_on_from(store, monkeypatch):
    store.begin(IDENTITY, resume=False)
    store.append([Sample(0, 1, 1)], seconds=1.0)
    versions = library_versions()
    other = versions | {"robust-clip": versions["robust-clip"] + "+g11111111"}
    monkeypatch.setattr("robust_clip.evaluation.run_folder.library_versions", lambda: other)
    with pytest.raises(ValueError, match=r"holds parts measured by robust-clip .*, and this is .*\+g11111111: go on"):
        store.begin(IDENTITY, resume=True)
    monkeypatch.undo()
    assert store.begin(IDENTITY, resume=True) is None
    assert store.read_parts() == ([Sample(0, 1, 1)], 1.0)


def test_examples_of_a_run_that_left_no_part_do_not_count(store):
    store.begin(IDENTITY, resume=False)
    (store.folder / "examples").mkdir()
    (store.folder / "examples" / "examples.json").write_text("[]")
    store.begin(IDENTITY, resume=True)
    assert not (store.folder / "examples").exists()
    store.append([Sample(0, 1, 1)], seconds=1.0)
    (store.folder / "examples").mkdir()
    store.begin(IDENTITY, resume=True)
    assert (store.folder / "examples").exists()


@pytest.fixture
def full_disk(monkeypatch):
    """A function that lets every write of a store fail while a context is open: `with full_disk():`."""

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    @contextmanager
    def run_out(*writers):
        with monkeypatch.context() as patched:
            for writer in writers or ("store.write_samples", "run_folder.write_json", "store.write_json"):
                patched.setattr(f"robust_clip.evaluation.{writer}", full)
            with pytest.raises(ValueError, match="No space left on device.*make room, then go on with --resume"):
                yield

    return run_out


def test_a_full_disk_leaves_what_was_written(store, full_disk):
    with full_disk():
        store.begin(IDENTITY, resume=False)
    store.begin(IDENTITY, resume=True)
    store.append([Sample(0, 1, 1)], seconds=1.0)
    with full_disk():
        store.append([Sample(1, 1, 1)], seconds=1.0)
    assert store.begin(IDENTITY, resume=True) is None
    assert store.read_parts() == ([Sample(0, 1, 1)], 1.0)


def test_a_disk_that_is_full_at_the_end_leaves_the_parts(store, row, full_disk):
    store.begin(IDENTITY, resume=False)
    store.append([Sample(0, 1, 1)], seconds=1.0)
    with full_disk():
        store.finish(row(), [Sample(0, 1, 1)])
    assert store.begin(IDENTITY, resume=True) is None
    assert store.read_parts() == ([Sample(0, 1, 1)], 1.0)
    store.finish(row(), [Sample(0, 1, 1)])
    assert Row.read(store.folder / "row.json") == row()


def test_a_full_disk_leaves_the_finished_row_as_it_was(store, row, full_disk):
    store.begin(IDENTITY, resume=False)
    store.finish(row(), [Sample(0, 1, 1)])
    with full_disk("records.write_json"):
        store.amend(row(checks=["found"]), ["found"])
    assert Row.read(store.folder / "row.json") == row()
    with full_disk("store.write_json"):
        store.amend(row(checks=["found"]), ["found"])
    assert not store.has_battery()


def test_a_row_knows_whether_its_battery_was_run(store, row):
    store.begin(IDENTITY, resume=False)
    store.finish(row(), [Sample(0, 1, 1)], battery=[])
    assert store.has_battery()
    store.amend(row(checks=["found"]), ["found"])
    assert Row.read(store.folder / "row.json").checks == ["found"]
    assert json.loads((store.folder / "battery.json").read_text()) == {"found": ["found"]}


def test_the_battery_of_a_run_that_was_killed_does_not_count(store, row):
    store.begin(IDENTITY, resume=False)
    (store.folder / "battery.json").write_text("{}")
    store.finish(row(), [Sample(0, 1, 1)])
    assert not store.has_battery()


def test_a_part_in_the_making_is_not_read(store):
    store.begin(IDENTITY, resume=False)
    (store.folder / "parts" / "part-000000000.unfinished").write_bytes(b"PAR1")
    assert store.read_parts() == ([], 0.0)


def test_an_unfinished_run_is_gone_on_from_only_when_asked(store):
    assert store.begin(IDENTITY, resume=False) is None
    store.append([Sample(0, 1, 1)], seconds=1.0)
    with pytest.raises(ValueError, match=r"4_255 holds an unfinished run: .* --resume, or give another directory"):
        store.begin(IDENTITY, resume=False)
    assert store.begin(IDENTITY, resume=True) is None
    assert len(store.read_parts()[0]) == 1


def test_a_finished_run_is_taken_only_when_asked(store, row):
    identity = {name: getattr(row(), name) for name in ("model", "dataset", "protocol", "threat_model", "seed")}
    store.begin(identity, resume=False)
    store.append([Sample(0, 1, 1)], seconds=1.0)
    store.finish(row(), [Sample(0, 1, 1)])
    assert sorted(path.name for path in store.folder.iterdir()) == ["row.json", "samples.parquet"]
    assert read_samples(store.folder / "samples.parquet")[0] == [Sample(0, 1, 1)]
    with pytest.raises(ValueError, match="holds a finished run: .* --resume"):
        store.begin(identity, resume=False)
    assert store.begin(identity, resume=True) == row()


def test_a_run_that_died_before_its_first_part_is_no_obstacle(store):
    store.begin(IDENTITY, resume=False)
    assert store.begin(IDENTITY | {"seed": 1}, resume=False) is None


def test_records_of_another_evaluation_are_refused(store):
    store.begin(IDENTITY, resume=False)
    store.append([Sample(0, 1, 1)], seconds=1.0)
    other = IDENTITY | {"seed": 1, "protocol": {"name": "p", "samples": 10}}
    with pytest.raises(ValueError, match="protocol.samples is None there and 10 here; seed is 0 there and 1 here"):
        store.begin(other, resume=True)


def test_a_file_in_the_way(store, tmp_path):
    (tmp_path / "records").write_text("not a folder")
    with pytest.raises(ValueError, match="cannot write to .*Not a directory.*: give another directory"):
        store.begin(IDENTITY, resume=False)


@pytest.fixture
def without_privileges():
    """Root may write anywhere, so be nobody for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


def test_a_folder_without_write_permission(tmp_path, without_privileges):
    if os.geteuid() == os.getuid():
        tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="cannot write to .*Permission denied"):
        require_writable(tmp_path)


def test_a_journal_writes_a_part_once_it_is_full(store):
    store.begin(IDENTITY, resume=False)
    journal = Journal(store, part_size=2)
    journal.add([Sample(0)])
    assert store.read_parts()[0] == []
    journal.add([Sample(1), Sample(2)])
    journal.add([Sample(3)])
    assert store.read_parts()[0] == [Sample(0), Sample(1), Sample(2)]
    journal.flush()
    journal.flush()
    samples, seconds = store.read_parts()
    assert samples == journal.samples == [Sample(index) for index in range(4)]
    assert seconds == pytest.approx(journal.seconds)


def test_another_version_of_a_protocol_is_another_evaluation(store):
    told = [IDENTITY | {"protocol": {"name": "p", "samples": None, "version": version}} for version in (1, 2)]
    store.begin(told[0], resume=False)
    store.append([Sample(0, 1, 1)], seconds=1.0)
    with pytest.raises(ValueError, match="holds another evaluation: protocol.version is 1 there and 2 here"):
        store.begin(told[1], resume=True)


def test_a_root_holds_one_state_of_the_weights_of_a_name(store, row, tmp_path):
    identity = {name: getattr(row(), name) for name in ("model", "dataset", "protocol", "threat_model", "seed")}
    store.begin(identity, resume=False)
    store.append([Sample(0, 1, 1)], seconds=1.0)
    store.finish(row(), [Sample(0, 1, 1)])
    beside = RecordStore(tmp_path / "records", "others", "test", get_protocol("pgd20"))
    with pytest.raises(ValueError, match="holds clip with other weights: revision is 'sha256:0123456789' there and"):
        beside.begin(identity | {"model": identity["model"] | {"revision": "sha256:trained-again"}}, resume=False)
    beside.begin(identity | {"model": {"id": "another", "revision": "sha256:trained-again"}}, resume=False)


def test_a_damaged_row_is_named(store, row):
    identity = {name: getattr(row(), name) for name in ("model", "dataset", "protocol", "threat_model", "seed")}
    store.begin(identity, resume=False)
    store.finish(row(), [])
    (store.folder / "row.json").write_text('{"model": ')
    with pytest.raises(ValueError, match=r"row.json is damaged .*: remove .*4_255, or give another directory"):
        store.begin(identity, resume=True)
