"""Text from data that means nothing in Markdown."""

from types import SimpleNamespace

import jinja2
import pytest
from card_pages import NASTY, Page
from markdown_it import MarkdownIt

from hf_urbanseg.hub.cards.licence import choose_licence
from hf_urbanseg.hub.cards.markdown import (
    code_span,
    escape_markdown,
    fence_code,
    flatten,
    format_count,
    format_percent,
    quote_path,
    render_markdown,
)


@pytest.mark.parametrize(
    "text", [*NASTY, "two\nlines", "plain", "000001_10", "_a_", "a_b_", "$$x$$", "3.72 M", "10. x", "", "+", "=="]
)
def test_escape_markdown__renders_as_it_is(text):
    for pattern in ("{}", "x {} y", "| a | b |\n|---|---|\n| {} | c |", "- {}", "**{}**"):
        parts = Page("\n---\n" + pattern.replace("{}", "ABC"))
        assert "ABC" in parts.text
        found = Page("\n---\n" + pattern.format(escape_markdown(text)))
        expected = " ".join(text.split()).replace("\u202e", r"\u202e")
        if expected:  # emphasis around nothing is no emphasis
            assert found.tags == parts.tags
            assert found.text == parts.text.replace("ABC", expected)


def test_escape_markdown__leaves_numbers_and_names_readable():
    for text in ("0.5, 0.75", "000001_10", "traffic light", "2.13.0+cpu", "IoU 3.1 %; 4,000 pixels", "a-b (c)"):
        assert escape_markdown(text) == text
    # What the Hub reads beyond CommonMark: formulas between dollars, and addresses that become links by themselves.
    assert escape_markdown("$$x$$ costs $5") == "&#36;&#36;x&#36;&#36; costs &#36;5"
    assert escape_markdown("see https://x.y/z") == "see https:&#47;&#47;x.y/z"
    assert escape_markdown("www.x.y or (WWW.x.y)") == "www&#46;x.y or (WWW&#46;x.y)"
    assert escape_markdown("_www.x.y") == "\\_www&#46;x.y"


def test_code__fences_and_spans_are_longer_than_what_is_inside():
    text = "```\n<b>\n````"
    html = MarkdownIt("commonmark").render(fence_code(text, "yaml"))
    assert html == '<pre><code class="language-yaml">```\n&lt;b&gt;\n````\n</code></pre>\n'
    assert MarkdownIt("commonmark").render(code_span("a``b`")) == "<p><code>a``b`</code></p>\n"
    assert quote_path("a b/(c)#?.png") == "a%20b/%28c%29%23%3F.png"


def test_flatten__one_line_of_bounded_length():
    assert flatten(" a\n\tb\u2028c ") == "a b c"


def test_format_percent__what_is_no_number_is_a_dash():
    values = (0.12345, 0, 1, None, float("nan"), float("inf"))
    assert [format_percent(value) for value in values] == ["12.35", "0.00", "100.00", "–", "–", "–"]
    assert format_percent(0.12345, 3) == "12.345"
    assert [format_count(value) for value in (1234, 0, None)] == ["1,234", "0", "–"]


def test_code_span__spaces_around_ticks_and_bars_in_tables():
    for text in ("`a", "a`", "``", "a|b", "a\nb"):
        page = Page(f"\n---\n| {code_span(text)} | c |\n|---|---|")
        assert page.cells == [[" ".join(text.split()), "c"]]


def test_render_markdown__a_missing_value_is_an_error():
    licence = choose_licence(None, False, "synthetic")
    run = SimpleNamespace(model_name="m", data_title="d", label_space=SimpleNamespace(num_labels=2), licence=licence)
    known = {"run": run, "step": 1, "max_steps": 2}
    assert render_markdown("interim_card.md.j2", version="1", **known).endswith("Written by hf_urbanseg 1.\n")
    with pytest.raises(jinja2.UndefinedError, match="version"):
        render_markdown("interim_card.md.j2", **known)
