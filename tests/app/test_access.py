"""Other hosts, other sites, forms, and tokens."""

import stat

import pytest

from reid_jax import errors
from reid_jax.app import access
from tests.app import drawn_gallery
from tests.app.client import WHY, image, served


def test_other_hosts_other_sites_and_forms_are_refused(shared):
    ask = lambda headers, host=None: shared.send("POST", "/api/search", image(1), headers, host)[0].status
    given = {"X-ReID-Search": "why=test"}
    port = shared.server.port
    assert ask(given) == 200
    assert ask(given, host=f"localhost:{port}") == 200
    assert ask(given, host="[::1]:9") == 200  # an SSH tunnel has another port
    for host in ("evil.example", f"127.0.0.1.evil.example:{port}", "192.168.0.7", "a b", "", "127.0.0.1:x"):
        assert ask(given, host=host or " ") == 421, host
    assert shared.send("GET", "/", host="evil.example")[0].status == 421
    assert ask({}) == 403  # a form
    assert ask({"Content-Type": "multipart/form-data; boundary=x"}) == 403
    assert ask({**given, "Origin": "http://evil.example"}) == 403
    assert ask({**given, "Origin": "null"}) == 403
    assert ask({**given, "Origin": f"http://127.0.0.1:{port}"}) == 200
    assert ask({**given, "Sec-Fetch-Site": "cross-site"}) == 403
    assert ask({**given, "Sec-Fetch-Site": "same-origin"}) == 200
    info = {"Sec-Fetch-Site": "cross-site"}
    assert shared.send("GET", "/api/info", headers=info)[0].status == 403
    for method in ("GET", "PUT", "DELETE", "OPTIONS", "TRACE", "X" * 50):
        response, _ = shared.send(method, "/api/search", headers=given)
        assert (response.status, response.headers["Allow"]) == (405, "POST")
        assert "Access-Control-Allow-Origin" not in response.headers
    twice = f"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nX-ReID-Search: {port}\r\n\r\n"
    assert b"expected one header Host, got 2" in shared.raw(twice.encode())


def test_beyond_this_machine_a_token_is_needed(tmp_path):
    token = access.new_token()
    with drawn_gallery.made(tmp_path / "people.gallery") as opened:
        missing = pytest.raises(
            errors.UserError, match=r"0\.0\.0\.0 is reached from other machines: expected tokens, got none"
        )
        with missing, served(opened, host="0.0.0.0"):
            pass
        tokens = {"ann": token, "bo": access.new_token()}
        with served(opened, host="0.0.0.0", tokens=tokens, names=("Search.example",)) as client:
            for given in (
                {},
                {"Authorization": "Bearer "},
                {"Authorization": f"Bearer {token[:-1]}"},
                {"Authorization": f"Basic {token}"},
            ):
                status, answer = client.post("search", headers=given, entry=1, **WHY)
                assert (status, answer["error"][:38]) == (401, "expected a token of this server (Autho")
                assert client.send("GET", "/api/info", headers=given)[0].status == 401
            assert client.post("search", headers={"Authorization": f"Bearer {token}"}, entry=1, **WHY)[0] == 200
            assert opened.log.lines()[-1]["who"] == "ann"
            right = {"Authorization": f"bearer {token}"}
            assert client.send("GET", "/api/info", headers=right, host="search.EXAMPLE:80")[0].status == 200
            assert client.send("GET", "/api/info", headers=right, host="10.0.0.7")[0].status == 200
            assert client.send("GET", "/api/info", headers=right, host="evil.example")[0].status == 421
            assert client.send("GET", "/")[0].status == 200  # the page, which holds nothing
        assert [line["event"] for line in opened.log.lines()] == ["add", "calibrate", "serve", "query", "stop serving"]


def test_files_of_tokens(tmp_path):
    path = tmp_path / "tokens"
    good = "a" * 30

    def read(text, mode=stat.S_IRUSR):
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return access.read_tokens(path)

    assert read(f"# people\n\nann {good}\nbo  {good}b\n") == {"ann": good, "bo": f"{good}b"}
    for text, message in (
        ("", "is empty; add a line"),
        ("ann short", "on line 1 of .* got another"),
        (f"ann {good}\nann {good}b", "line 2 of .* repeats a name or a token"),
        (f"ann {good}\nbo {good}", "repeats"),
        (f"ann {good}é", "ASCII"),
    ):
        with pytest.raises(errors.UserError, match=message):
            read(text)
    with pytest.raises(errors.UserError, match="other users may read the tokens"):
        read(f"ann {good}", 0o644)
