"""Text from data that means nothing in Markdown."""

import pytest
from card_pages import NASTY, Page
from markdown_it import MarkdownIt

from hf_urbanseg.hub.markdown import code_span, escape_markdown, fence_code, quote_path


@pytest.mark.parametrize(
    "text", [*NASTY, "plain", "000001_10", "_a_", "a_b_", "$$x$$", "3.72 M", "10. x", "", "+", "=="]
)
def test_escape_markdown__renders_as_it_is(text):
    for pattern in ("{}", "x {} y", "| a | b |\n|---|---|\n| {} | c |", "- {}", "**{}**"):
        parts = Page("\n---\n" + pattern.replace("{}", "ABC"))
        assert "ABC" in parts.text
        found = Page("\n---\n" + pattern.format(escape_markdown(text)))
        expected = " ".join(text.split()).replace("\u202e", "\ufffd")
        if expected:  # emphasis around nothing is no emphasis
            assert found.tags == parts.tags
            assert found.text == parts.text.replace("ABC", expected)


def test_escape_markdown__leaves_numbers_and_names_readable():
    for text in ("0.5, 0.75", "000001_10", "traffic light", "2.13.0+cpu", "IoU 3.1 %; 4,000 pixels", "a-b (c)"):
        assert escape_markdown(text) == text


def test_code__fences_and_spans_are_longer_than_what_is_inside():
    text = "```\n<b>\n````"
    html = MarkdownIt("commonmark").render(fence_code(text, "yaml"))
    assert html == '<pre><code class="language-yaml">```\n&lt;b&gt;\n````\n</code></pre>\n'
    assert MarkdownIt("commonmark").render(code_span("a``b`")) == "<p><code>a``b`</code></p>\n"
    assert quote_path("a b/(c)#?.png") == "a%20b/%28c%29%23%3F.png"
