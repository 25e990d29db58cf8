"""Jobs are done by one worker each, also when that worker is killed."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from vllm_dsocr.server.storage.database import MAX_STARTS, Database


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path / 'jobs.sqlite'}")


def test_a_job_is_claimed_once_by_many_workers(tmp_path):
    url = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    jobs = {Database(url).add_job("", "ocr", {}).id for _ in range(40)}
    claimed: list[str] = []

    def work(name: str) -> None:
        database = Database(url)
        while (job := database.claim_job(name, 60)) is not None:
            claimed.append(job.id)
            database.end_job(name, job.id, "success")

    threads = [threading.Thread(target=work, args=(f"worker-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(jobs)


def test_a_job_whose_worker_died_is_taken_over_and_the_dead_one_is_not_heard(database):
    job = database.add_job("", "ocr", {"x": 1})
    assert database.claim_job("a", 1.0).id == job.id
    assert database.claim_job("b", 60) is None
    time.sleep(1.1)
    assert database.claim_job("b", 60).id == job.id
    assert not database.end_job("a", job.id, "success")
    assert not database.renew("a", job.id, 60)
    assert database.end_job("b", job.id, "success")
    assert database.job("", job.id).state == "success"


def test_a_worker_that_stood_still_does_not_take_its_own_job_again(database):
    job = database.add_job("", "ocr", {})
    assert database.claim_job("a", 0.0).id == job.id
    assert database.claim_job("a", 60, [job.id]) is None
    assert database.renew("a", job.id, 60)


def test_a_job_that_takes_every_server_down_is_given_up(database):
    job = database.add_job("", "ocr", {})
    for _ in range(MAX_STARTS):
        assert database.claim_job("a", -1).state == "started"
    assert database.claim_job("a", -1).state == "failure"
    assert database.job("", job.id).error


def test_what_one_owner_has_another_does_not_see(database):
    file = database.add_file("me", "0" * 64, "a.pdf", 3, "ocr")
    job = database.add_job("me", "ocr", {})
    assert database.file("you", file.id) is None and database.job("you", job.id) is None
    assert database.files("you") == [] and database.jobs("you", "ocr") == []
    assert database.file("me", file.id).name == "a.pdf"


def test_bytes_of_two_records_go_with_the_last(database):
    first, second = (database.add_file(owner, "0" * 64, "a", 3, "ocr") for owner in "ab")
    assert not database.delete_file(first)
    assert database.delete_file(second)


def test_a_page_that_is_used_again_is_young_again(database, monkeypatch):
    now = time.time()
    for key in ("used", "left"):
        database.add_page(key, {})
    monkeypatch.setattr(time, "time", lambda: now + 1000)
    database.touch_page("used")
    assert [page.key for page in database.pages_before(now + 500)] == ["left"]


def test_a_cancelled_job_is_not_run(database):
    job = database.add_job("", "ocr", {})
    assert database.cancel_job(job.id)
    assert database.claim_job("a", 60) is None
    assert not database.cancel_job(job.id)


def test_a_job_given_back_is_taken_by_the_next_at_once(database):
    job = database.add_job("", "ocr", {})
    for worker in ("a", "b", "c", "d"):  # going down in good order is no failed start
        assert database.claim_job(worker, 60).id == job.id
        assert database.give_back(worker, job.id)
    assert database.claim_job("e", 60).id == job.id
