"""The report's files, the command, and the page in a browser."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from hmhi_jax.cli import main
from hmhi_jax.errors import InputError
from hmhi_jax.evaluation import evaluate
from hmhi_jax.tools.report.page import Run
from hmhi_jax.tools.report.report import write_report

GOLDENS = Path(__file__).parents[2] / "evaluation" / "goldens"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The made-up predictions, and a second method that is off by some pixels and misses a frame."""
    root = tmp_path_factory.mktemp("runs")
    shutil.copytree(GOLDENS / "pred", root / "first")
    for path in (root / "first").rglob("*.png"):
        target = root / "second" / path.relative_to(root / "first")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            Image.fromarray(np.roll(np.asarray(picture), 9, axis=1)).save(target)
    (root / "second" / "shape-b" / "00004.png").unlink()
    return root


@pytest.fixture(scope="module")
def comparison(folders, tmp_path_factory):
    """A written comparison of the two."""
    runs = [
        Run(name, tuple(evaluate(folders / name, GOLDENS / "gt", ["davis16", "vsod"]))) for name in ("first", "second")
    ]
    out = tmp_path_factory.mktemp("report")
    write_report(runs, out)
    return out, runs


def test_json_holds_every_number_with_protocol_and_reading(comparison):
    out, runs = comparison
    document = json.loads((out / "scores.json").read_text())
    assert set(document["protocols"]) == {"davis16", "vsod"}
    for run in runs:
        for found, stored in zip(run.scores, document["runs"][run.name], strict=True):
            assert (stored["protocol"], stored["reading"]) == (found.protocol.name, "plain")
            assert stored["complete"] == (run.name == "first")
            assert stored["figures"] == pytest.approx(found.figures, abs=1e-8)
            for name, video in found.videos.items():
                frames = stored["videos"][name]["per_frame"]
                for measure, values in video.per_frame.items():
                    read = np.array([np.nan if value is None else value for value in frames[measure]])
                    np.testing.assert_allclose(read, values, atol=1e-8)
    assert len(document["runs"]["first"][1]["curves"]["F"]) == 256
    assert document["runs"]["second"][0]["remarks"][0]["frame"] == "00004"


def test_csv_has_a_row_per_data_set_video_and_frame(comparison):
    out, runs = comparison
    rows = list(csv.DictReader((out / "scores.csv").open()))
    assert len(rows) == 2 * 2 * (1 + 3)
    (row,) = [r for r in rows if (r["run"], r["protocol"], r["level"]) == ("second", "davis16", "data set")]
    assert float(row["J_mean"]) == pytest.approx(runs[1].scores[0]["J_mean"], abs=1e-6)
    assert row["MAE"] == ""
    frames = list(csv.DictReader((out / "frames.csv").open()))
    assert len(frames) == 2 * 27
    (missing,) = [r for r in frames if (r["run"], r["video"], r["frame"]) == ("second", "shape-b", "00004")]
    assert missing["J"] == ""


def test_markdown_is_a_table_with_the_best_in_bold(comparison):
    out, runs = comparison
    text = (out / "scores.md").read_text()
    assert "**davis16**, plain reading, 3 videos (incomplete: second)" in text
    first, second = (run.scores[0]["JF_mean"] for run in runs)
    assert first > second
    assert f"| first | **{first:.3f}** |" in text
    assert f"| second | {second:.3f} |" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines[:4]}) == 1


def test_page_is_self_contained_and_bounded(comparison, tmp_path):
    out, runs = comparison
    page = (out / "report.html").read_text()
    # Addresses are inside the page, data, or files beside it: nothing is loaded from elsewhere.
    for address in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert address.startswith(("#", "data:")) or (out / address).is_file(), address
    assert "http" not in re.sub(r"http-equiv", "", page)
    assert page.count("data:image/webp") > 20
    small = write_report(runs, tmp_path, picture_budget=20_000).read_text()
    pictures = sum(map(len, re.findall(r'"(data:image/webp[^"]*)"', small)))
    shown = set(re.findall(r'"(data:image/webp[^"]*)"', small))
    assert sum(map(len, shown)) <= 20_000
    assert pictures < 60_000  # best and worst frames may be shown twice


def test_names_are_text_and_never_markup(tmp_path):
    hostile = "a<b>&\"'`$ {x}"
    for folder in ("pred", "gt"):
        (tmp_path / folder / hostile).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.eye(20, dtype=np.uint8) * 255).save(tmp_path / folder / hostile / f"{i}.png")
    scores = evaluate(tmp_path / "pred", tmp_path / "gt", ["davis16"])
    page = write_report([Run("<script>alert(1)</script>", tuple(scores))], tmp_path / "out").read_text()
    assert page.count("<script>") == 1
    assert "<b>" not in page
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["runs"]


def test_runs_that_cannot_be_compared(folders, tmp_path):
    uvos = tuple(evaluate(folders / "first", GOLDENS / "gt", ["davis16"]))
    inner = tuple(evaluate(folders / "first", GOLDENS / "gt", ["davis16-inner"]))
    with pytest.raises(InputError, match="davis16-inner"):
        write_report([Run("a", uvos), Run("b", inner)], tmp_path)
    with pytest.raises(InputError, match="two runs"):
        write_report([Run("a", uvos), Run("a", uvos)], tmp_path)
    with pytest.raises(InputError, match="at least one"):
        write_report([], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="another folder"):
        write_report([Run("a", uvos)], tmp_path / "file")


@pytest.fixture
def hmhi(capsys, monkeypatch):
    """Run the command in this process: (exit code, output, errors)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hmhi", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        code = stopped.value.code or 0
        return SimpleNamespace(returncode=code, **capsys.readouterr()._asdict())

    return run


def test_command(hmhi, folders, tmp_path):
    done = hmhi("report", folders / "first", GOLDENS / "gt", "--out", tmp_path, "--no-extra", "--reading", "release")
    assert done.returncode == 0, done.err
    assert "JF_mean" in done.out
    assert json.loads((tmp_path / "scores.json").read_text())["runs"]["first"][0]["reading"] == "release"
    lists = tmp_path / "val.txt"
    lists.write_text("shape-a\nshape-c\n")
    done = hmhi(
        "report", folders / "first", folders / "second", "--gt", GOLDENS / "gt", "--out", tmp_path / "both",
        "--protocol", "davis16-inner", "--name", "ours", "--name", "theirs", "--videos", lists,
    )  # fmt: skip
    assert done.returncode == 0, done.err
    stored = json.loads((tmp_path / "both" / "scores.json").read_text())
    assert list(stored["runs"]) == ["ours", "theirs"]
    assert list(stored["runs"]["ours"][0]["videos"]) == ["shape-a", "shape-c"]
    assert (tmp_path / "both" / "theirs" / "report.html").is_file()


def test_command_errors_are_one_line(hmhi, folders, tmp_path):
    for arguments, expected in (
        ((folders / "first",), "ground truth"),
        ((tmp_path / "absent", GOLDENS / "gt"), "absent"),
        ((folders / "second", GOLDENS / "gt", "--strict"), "shape-b/00004"),
        ((folders / "first", GOLDENS / "gt", "--protocol", "best"), "davis16"),
        ((folders / "first", GOLDENS / "gt", "--name", "a", "--name", "b"), "--name"),
    ):
        done = hmhi("report", *arguments, "--out", tmp_path / "out", "--no-extra")
        assert done.returncode == 2, done
        (line,) = [line for line in done.err.splitlines() if line.strip()]
        assert line.startswith("error: ")
        assert expected in line


# --- In a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture
def visit(browser):
    """Open a page with some window; afterwards, nothing may have been logged or asked for from elsewhere."""
    problems, contexts = [], []

    def go(path, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda r: problems.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
        page.goto(path.as_uri())
        return page

    yield go
    for context in contexts:
        context.close()
    assert not problems


def names(page, table=0):
    rows = page.locator("table.sortable").nth(table).locator("tbody tr th")
    return [text.strip() for text in rows.all_inner_texts()]


def test_sorting_with_mouse_and_keyboard(comparison, visit):
    out, runs = comparison
    page = visit(out / "first" / "report.html")
    table = page.locator("table.sortable").first
    by_j = sorted(runs[0].scores[0].videos, key=lambda name: -runs[0].scores[0].videos[name]["J_mean"])
    heading = table.get_by_role("button", name="J", exact=True)
    heading.click()
    assert names(page) == by_j
    assert table.locator("th[aria-sort=descending]").inner_text().strip() == "J"
    heading.focus()
    page.keyboard.press("Enter")
    assert names(page) == by_j[::-1]
    table.get_by_role("button", name="Video").click()
    assert names(page) == sorted(by_j)


def test_opening_a_video_and_walking_through_its_chart(comparison, visit):
    out, runs = comparison
    page = visit(out / "report.html")
    details = page.locator("details.video[data-video=shape-b]")
    assert details.get_attribute("open") is None
    page.locator("table.sortable").first.get_by_role("link", name="shape-b").click()
    assert details.get_attribute("open") is not None
    assert details.locator("summary").evaluate("element => element === document.activeElement")
    plot = details.locator(".plot")
    assert "shape-b over 9 frames" in plot.get_attribute("aria-label")
    plot.focus()
    page.keyboard.press("Home")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    read = details.locator("output").inner_text()
    first = runs[0].scores[0].videos["shape-b"].per_frame["J"][4]
    assert read.startswith(f"frame 00004: J first {first:.3f}")
    assert "J second not scored" in read
    details.get_by_role("link", name="shape-c").click()
    assert page.locator("details.video[data-video=shape-c]").get_attribute("open") is not None
    images = page.locator("details.video[open] img")
    assert images.count() > 0
    images.first.scroll_into_view_if_needed()
    page.wait_for_function("[...document.querySelectorAll('details.video[open] img')].some(i => i.naturalWidth > 100)")


def test_links_between_reports_and_the_filter(comparison, visit):
    out, _ = comparison
    page = visit(out / "report.html")
    page.get_by_role("link", name="Report of second").click()
    assert page.locator("h1").inner_text() == "Scores of second"
    assert "could not be scored" in page.locator(".warning").inner_text()
    page.get_by_role("link", name="The comparison").click()
    assert page.locator("h1").inner_text() == "first and second compared"
    page.locator("#filter").fill("shape-c")
    assert page.locator("details.video:visible").count() == 1
    page.locator("#open-all").click()
    assert page.locator("details.video[open]").count() == 1


def test_phone_and_dark_mode(comparison, visit):
    out, _ = comparison
    page = visit(out / "report.html", viewport={"width": 360, "height": 740}, color_scheme="dark")
    page.locator("#open-all").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360  # wide tables scroll inside themselves
    luminance = "c => { const [r, g, b] = c.match(/\\d+/g).map(Number); return 0.3 * r + 0.6 * g + 0.1 * b; }"
    style = "getComputedStyle(document.body)"
    assert page.evaluate(f"({luminance})({style}.backgroundColor)") < 50
    assert page.evaluate(f"({luminance})({style}.color)") > 200
