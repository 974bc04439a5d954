"""The page of answers: names from elsewhere are text in it, whatever they hold."""

import html.parser

import numpy as np

from reid_jax.gallery import answer_page, answers, entries
from tests.gallery import conformance
from tests.helpers import small_galleries

HOSTILE = "<img src=x onerror=alert(1)>\"'&<!--POLICY--></article><script>alert(2)</script>"


class Tags(html.parser.HTMLParser):
    """Counts elements and collects text."""

    def __init__(self):
        super().__init__()
        self.tags, self.text, self.attributes = [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_names_enter_the_page_as_text(tmp_path):
    features = small_galleries.drawn(queries=1, images=12)
    binding = small_galleries.bound(features)
    with conformance.made(tmp_path / "g", features, rows=range(8)) as opened:
        bad = entries.Entries(
            [f"{HOSTILE}/{row}" for row in range(4)],
            features.gallery_features[8:],
            identities=[HOSTILE] * 4,
            cameras=[HOSTILE] * 4,
            tracks=[HOSTILE] * 4,
            thumbnails=[HOSTILE.encode(), b"\x89PNG\r\n\x1a\n", b"", None],
        )
        opened.add(bad, binding)
        asked = answers.Query(features.query_features, binding, names=[HOSTILE], tracks=[HOSTILE])
        chosen = entries.Filter(other_than=(HOSTILE + "x",))
        replies = opened.query(asked, k=12, chosen=chosen, threshold=answers.Threshold(1.0, 0.1, "search", 0.5, 9, 9))
        picture = lambda _: np.zeros((64, 32, 3), np.uint8)
        path = answer_page.write(
            tmp_path / "new" / "p.html", opened, replies, picture=picture, chosen=chosen, facts={"because": HOSTILE}
        )
    seen = Tags()
    seen.feed(path.read_text())
    assert "script" not in seen.tags
    assert seen.tags.count("article") == 1
    assert seen.tags.count("img") == 2  # the query, and the one thumbnail that begins like a picture
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert seen.text.count("onerror") >= 6
    assert [value for name, value in seen.attributes if name == "content" and "default-src" in value] != []
