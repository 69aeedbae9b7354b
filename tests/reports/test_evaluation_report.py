import base64
import html
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import CITYSCAPES, LabelSpace
from hf_urbanseg.metrics.image_counts import ImageCounts, ImageCountsBuilder
from hf_urbanseg.reports.evaluation_report import describe_failure, write_evaluation_report
from hf_urbanseg.reports.failure_cases import choose_failure_cases
from hf_urbanseg.runs.scores import describe_scores

REAL_DATA = Path(os.environ.get("HF_URBANSEG_DATA", Path(__file__).parents[3] / "shared" / "data"))
EVIL = LabelSpace("evil", ("<b>road</b>", 'the "car"', "a & b"), ((128, 64, 128), (0, 0, 142), (0, 80, 100)), {})


def _measure(space, count=6, size=(60, 200), seed=0, names=None, used=None):
    """Scenes of bands of classes, predicted with errors: scores, counts and failure cases."""
    rng, classes = np.random.default_rng(seed), space.num_labels
    names = names or tuple(f"frame {index}" for index in range(count))
    maps, counts, total = {}, ImageCountsBuilder(space.names), 0
    for name in names:
        label = np.repeat(rng.integers(0, used or classes, size[1] // 20), 20)[None].repeat(size[0], 0)
        prediction = label.copy()
        prediction[: rng.integers(5, size[0])] = rng.integers(0, used or classes)
        label[:, :7] = 255
        matrix = confusion_matrix(label[:, 7:].ravel(), prediction[:, 7:].ravel(), labels=range(classes))
        maps[name], total = (prediction.astype(np.uint8), label.astype(np.uint8)), total + matrix
        counts.add(name, matrix)
    images = counts.build()
    failures = []
    for index, reasons in choose_failure_cases(images, overall=3).items():
        image, name = Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)), names[index]
        failures.append(describe_failure(name, reasons, image, *maps[name], space))
    return describe_scores(total, space, 0), images, failures


def _write(path, space=CITYSCAPES, measured=None, **changes):
    scores, images, failures = measured or _measure(space)
    options = {
        "title": "B0 on some frames", "label_space": space, "scores": scores, "images": images, "cases": failures,
        "failure_rule": "the worst",
        "recipe": "lr: 1.0e-5\n", "protocol": "single scale", "data": "test split", "environment": {"torch": "2.13"},
    }  # fmt: skip
    write_evaluation_report(path, **(options | changes))
    return path.read_text(encoding="utf-8")


def _rows(page: str, section: str) -> list[list[str]]:
    """Text of a section's table cells, without tags."""
    body = page[page.index(f'<section id="{section}">') :].partition("</section>")[0]
    return [
        [
            html.unescape(re.sub(r"<[^>]+>", "", cell)).strip()
            for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)
        ]
        for row in re.findall(r"<tr>.*?</tr>", body, re.DOTALL)
    ]


def test_write_evaluation_report__numbers_of_every_part(tmp_path):
    scores, images, failures = _measure(CITYSCAPES)
    page = _write(tmp_path / "a.html", measured=(scores, images, failures))
    assert f'<span class="value">{100 * scores["mean_iou"]:.2f}</span>' in page
    rows = {row[0]: row for row in _rows(page, "classes")}
    for name in CITYSCAPES.names:
        expected = scores["iou"][name]
        assert rows[name][1] == ("-" if expected is None else f"{100 * expected:.2f}")
        assert rows[name][-2] == f"{scores['support'][name]:,}"
    assert rows["mean"][1] == f"{100 * scores['mean_iou']:.2f}"
    listed = _rows(page, "images")[1:]
    order = np.argsort(images.mean_iou, kind="stable")
    assert [row[0] for row in listed] == [images.names[i] for i in order]
    assert listed[0][1] == f"{100 * images.mean_iou.min():.2f}"
    assert page.count('<article id="case-') == len(failures)
    for number, case in enumerate(failures, 1):
        assert f"<h3>{number}. {case['name']}</h3>" in page
        assert f'href="#case-{number}"' in page
        assert all(html.escape(reason) in page for reason in case["reasons"])
    assert page.count("<img ") == 4 * len(failures)
    assert "lr: 1.0e-5" in page
    assert "single scale" in page


def test_write_evaluation_report__matrix_normalised_both_ways(tmp_path):
    scores, images, failures = _measure(EVIL, count=3)
    scores["confusion_matrix"] = [[60, 30, 10], [0, 0, 0], [1, 0, 299]]
    rows = _rows(_write(tmp_path / "a.html", EVIL, (scores, images, failures)), "confusions")
    by_label, by_prediction, largest = rows[1:4], rows[5:8], rows[9:]
    assert [row[1:] for row in by_label] == [["60", "30", "10"], ["", "", ""], ["·", "", "100"]]
    assert [row[1:] for row in by_prediction] == [["98", "100", "3"], ["", "", ""], ["2", "", "97"]]
    assert [row[2:] for row in largest] == [["30", "30.0", "73.2"], ["10", "10.0", "24.4"], ["1", "0.3", "2.4"]]
    assert [row[:2] for row in largest] == [
        ["<b>road</b>", 'the "car"'],
        ["<b>road</b>", "a & b"],
        ["a & b", "<b>road</b>"],
    ]


def test_write_evaluation_report__everything_is_escaped(tmp_path):
    evil = '"><img src="http://example.org/x.png"><script>alert(1)</script>'
    names = tuple(f"{evil}{index}" for index in range(6))
    page = _write(
        tmp_path / "a.html", EVIL, _measure(EVIL, names=names), title=evil, recipe=evil, protocol=evil, data=evil,
        environment={evil: evil}, failure_rule=evil,
    )  # fmt: skip
    assert "<script>alert" not in page
    assert 'src="http' not in page
    assert "<b>road" not in page
    assert 'the "car"' not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)


def test_write_evaluation_report__only_what_is_known(tmp_path):
    scores, images, _ = _measure(CITYSCAPES)
    least = {key: scores[key] for key in ("mean_iou", "iou", "support", "confusion_matrix")}
    page = _write(tmp_path / "a.html", scores=least, images=images, cases=[], recipe=None)
    assert _rows(page, "classes")[0] == ["class", "IoU", "pixels", "share"]
    assert "None to show." in page
    assert "The model came without a recipe." in page
    assert "always guessing" not in page
    assert 'id="categories"' not in page
    full = scores | {
        "precision": scores["iou"], "boundary_iou": dict.fromkeys(CITYSCAPES.names), "category_iou": {"flat": 0.5},
        "confidence_interval": {"low": 0.1, "high": 0.3, "confidence": 0.9},
    }  # fmt: skip
    page = _write(tmp_path / "a.html", scores=full, images=images)
    assert "boundary IoU" in _rows(page, "classes")[0]
    assert _rows(page, "categories")[1] == ["flat", "50.00", "road\nsidewalk"]
    assert "<strong>10.00 to 30.00 %</strong>:\n90 % interval" in page
    assert f"always guessing {scores['constant_guess']['class']}" in page


def test_write_evaluation_report__a_single_image_has_no_interval(tmp_path):
    scores, images, failures = _measure(CITYSCAPES, count=1)
    page = _write(tmp_path / "a.html", scores=scores | {"confidence_interval": None}, images=images, cases=failures)
    assert "% interval" not in page
    assert "classes, 1 image<" in page


def test_write_evaluation_report__no_labelled_pixel(tmp_path):
    zeros = np.zeros((2, 19), np.int64)
    images = ImageCounts(("a", "b"), CITYSCAPES.names, zeros, zeros, zeros)
    void = np.full((4, 6), 255, np.uint8)
    case = describe_failure("a", ["asked for"], Image.new("RGB", (6, 4)), np.zeros_like(void), void, CITYSCAPES)
    scores = describe_scores(np.zeros((19, 19), np.int64), CITYSCAPES, 0)
    page = _write(tmp_path / "a.html", scores=scores, images=images, cases=[case])
    assert "No image has a labelled pixel." in page
    assert page.count("No pixel is wrong.") == 2


def test_write_evaluation_report__many_images_stay_small(tmp_path):
    scores, images, _ = _measure(CITYSCAPES)
    rows = np.arange(3000) % len(images)
    names = tuple(f"image {index:04d}" for index in range(3000))
    many = ImageCounts(names, images.classes, images.hits[rows], images.labelled[rows], images.predicted[rows])
    page = _write(tmp_path / "a.html", scores=scores, images=many, cases=[])
    assert "The 500 worst of 3,000 images" in page
    assert page.count("<li title=") == 200
    assert len(page) < 500_000
    counts = re.findall(r'<span title="\d+ to \d+ %: ([\d,]+)">', page)
    assert sum(int(count.replace(",", "")) for count in counts) == 3000


def test_write_evaluation_report__255_classes(tmp_path):
    names = tuple(f"class {index}" for index in range(255))
    space = LabelSpace("many", names, tuple((index, 255 - index, 7) for index in range(255)), {})
    page = _write(tmp_path / "a.html", space)
    assert 'class="matrix"' not in page
    assert len(_rows(page, "confusions")) == 13


def test_write_evaluation_report__large_frames_are_made_smaller_but_counted_whole(tmp_path):
    label, prediction = np.zeros((1024, 2048), np.uint8), np.zeros((1024, 2048), np.uint8)
    prediction[:, :512] = 1
    case = describe_failure("large", ["asked for"], Image.new("RGB", (2048, 1024)), prediction, label, CITYSCAPES)
    page = _write(tmp_path / "a.html", cases=[case])
    assert page.count('width="1024" height="512"') == 4
    assert f"25.0 % of the labelled pixels wrong ({1024 * 512:,})" in page
    assert len(page) < 200_000


@pytest.mark.real_data
def test_write_evaluation_report__twenty_kitti_frames_stay_below_eight_megabytes(tmp_path):
    folder = REAL_DATA / "kitti48" / "training"
    if not folder.is_dir():
        pytest.skip(f"no KITTI frames in {folder}")
    cases = []
    for path in sorted((folder / "semantic").glob("*.png"))[:20]:
        label = CITYSCAPES.train_id_table[np.array(Image.open(path))]
        prediction = np.roll(label, 9, 1)
        prediction[prediction == 255] = 0
        image = Image.open(folder / "image_2" / path.name)
        cases.append(describe_failure(path.stem, ["asked for"], image, prediction, label, CITYSCAPES))
    _write(tmp_path / "a.html", cases=cases)
    assert (tmp_path / "a.html").stat().st_size < 8_000_000


def test_write_evaluation_report__refuses_other_classes_and_leaves_the_earlier_page(tmp_path):
    first = _write(tmp_path / "a.html")
    with pytest.raises(ConfigError, match="expected `iou` of the classes of evil; found road, "):
        _write(tmp_path / "a.html", EVIL, _measure(CITYSCAPES))
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == first
    assert [file.name for file in tmp_path.iterdir()] == ["a.html"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    scores, images, failures = _measure(CITYSCAPES, size=(375, 1240), count=3, used=17)
    written = _write(path, measured=(scores, images, failures), recipe="a_long_line: " + "word" * 200)
    return path, _rows(written, "classes")[0]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1366])
def test_write_evaluation_report__in_a_browser(browser, page, width, dark):
    path, _ = page
    browser.open(path, width, dark=dark)
    assert browser.complaints == []
    assert browser.requests == [path.resolve().as_uri()]
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    browser.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    decoded = "Promise.all([...document.querySelectorAll('main img')].map((i) => i.decode())).then(() => true)"
    assert browser.evaluate(decoded)
    # One column of pictures on a phone, two on a laptop.
    lefts = "new Set([...document.querySelectorAll('#case-1 img')].map((i) => i.getBoundingClientRect().left)).size"
    assert browser.evaluate(lefts) == (1 if width < 700 else 2)
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(18, 21, 26)" if dark else "rgb(246, 247, 249)")


def test_write_evaluation_report__more_to_the_side_casts_a_shadow_in_a_browser(browser, page):
    """Everything that scrolls sideways on a phone is darker at its right edge, until its end is reached."""
    path, _ = page
    browser.open(path, 390)
    browser.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    browser.evaluate(
        "window.wide = [...document.querySelectorAll('*')].filter((e) => e.scrollWidth > e.clientWidth + 1 && "
        "/auto|scroll/.test(getComputedStyle(e).overflowX) && e.offsetHeight)"
    )
    count = browser.evaluate("wide.length")
    assert count > 3
    for index in range(count):
        edges = []
        for left in (0, 10_000):
            browser.evaluate(f"wide[{index}].scrollLeft = {left}")
            box = browser.evaluate(
                f"(({{right, top, height}}) => ({{x: right + scrollX - 2, y: top + scrollY, width: 2, height}}))"
                f"(wide[{index}].getBoundingClientRect())"
            )
            shot = browser.call("Page.captureScreenshot", captureBeyondViewport=True, clip=box | {"scale": 1})
            edges.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("L")).mean())
        assert edges[0] < edges[1] - 15, browser.evaluate(f"wide[{index}].outerHTML.slice(0, 200)")


def test_write_evaluation_report__upright_pictures_fit_a_screen(browser, tmp_path):
    image, train_ids = Image.new("RGB", (1080, 1920)), np.zeros((1920, 1080), np.uint8)
    _write(tmp_path / "a.html", cases=[describe_failure("a", ["tall"], image, train_ids, train_ids, CITYSCAPES)])
    browser.open(tmp_path / "a.html", 1366, height=800)
    heights = browser.evaluate("[...document.querySelectorAll('#case-1 img')].map((i) => i.clientHeight)")
    assert len(heights) == 4
    assert 600 < max(heights) < 800


@pytest.mark.parametrize("width", [390, 1366])
def test_write_evaluation_report__long_names_leave_room_in_a_browser(browser, tmp_path, width):
    names = (" ".join(["a", "long", "name"] * 9)[:100], "n" * 100, "traffic light")
    space = LabelSpace("long", names, EVIL.colors, {})
    _write(tmp_path / "report.html", space, _measure(space, names=("f" * 200, "frame")))
    browser.open(tmp_path / "report.html", width)
    browser.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    boxes = "[...document.querySelectorAll('{}')].map((e) => e.getBoundingClientRect())"
    assert (
        browser.evaluate(f"Math.max(...{boxes.format('tbody .name, tbody .class-name')}.map((b) => b.width))")
        < width / 2
    )
    assert browser.evaluate(
        "[...document.querySelectorAll('tbody th')].every((e) => e.querySelector('.name, .class-name'))"
    )
    assert browser.evaluate(f"Math.max(...{boxes.format('.matrix thead th span')}.map((b) => b.height))") < 250
    assert browser.evaluate(f"Math.max(...{boxes.format('.legend li')}.map((b) => b.right))") < width
    lines = f"new Set({boxes.format('#classes .class-name')}.map((b) => b.height > 30)).size"
    assert browser.evaluate(lines) == 2  # the usual name stays on one line


def test_write_evaluation_report__tables_sort_in_a_browser(browser, page):
    path, columns = page
    at = columns.index("pixels")
    browser.open(path, 1366)
    rows = "[...document.querySelectorAll('#classes tbody tr')]"
    values = "{}.map((r) => r.cells[{}].dataset.value ?? r.cells[{}].innerText)"
    names, ious, pixels = (values.format(rows, column, column) for column in (0, 1, at))
    click = "document.querySelectorAll('#classes thead button')[{}].click()"
    own = browser.evaluate(names)
    assert own == list(CITYSCAPES.names)
    browser.evaluate(click.format(0))
    assert browser.evaluate(names) == sorted(CITYSCAPES.names)
    browser.evaluate(click.format(at))
    counts = [int(value) for value in browser.evaluate(pixels)]
    assert counts == sorted(counts, reverse=True)
    assert max(counts) > 1000
    browser.evaluate(click.format(1))  # IoU: what can't be computed comes last, in either order
    for _ in range(2):
        iou = browser.evaluate(ious)
        known = [value for value in iou if value]
        assert 0 < len(known) < 19
        assert iou == known + [""] * (19 - len(known))
        browser.evaluate(click.format(1))
    assert browser.evaluate(names) == own  # the third click


def test_write_evaluation_report__matrix_and_pictures_answer_in_a_browser(browser, page):
    path, _ = page
    browser.open(path, 390)
    shown = "[...document.querySelectorAll('.panel')].map((p) => getComputedStyle(p).display)"
    assert browser.evaluate(shown) == ["block", "none"]
    browser.evaluate("document.querySelector('label[for=by-column]').click()")
    assert browser.evaluate(shown) == ["none", "block"]
    browser.evaluate("document.querySelectorAll('#case-1 img')[1].click()")
    large = "[document.querySelector('dialog').open, document.querySelector('dialog img').alt]"
    alts = browser.evaluate("[...document.querySelectorAll('#case-1 img')].map((i) => i.alt)")
    assert browser.evaluate(large) == [True, alts[1]]
    key = "document.querySelector('dialog').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))"
    browser.evaluate(key)
    assert browser.evaluate(large) == [True, alts[2]]
    browser.evaluate("document.querySelector('dialog button:last-child').click()")
    assert browser.evaluate("document.querySelector('dialog').open") is False
    assert browser.complaints == []
