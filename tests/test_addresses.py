"""Where the book is kept and shown, and the links that follow: `vilib.addresses`."""

from __future__ import annotations

import subprocess
from urllib.parse import parse_qs, urlsplit

import pytest

from vilib import addresses
from vilib.addresses import Repository, parse


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    monkeypatch.delenv("VILIB_REPOSITORY", raising=False)
    monkeypatch.delenv("VILIB_SITE", raising=False)


@pytest.mark.parametrize("remote", [
    "https://github.com/owner/the.book",
    "https://github.com/owner/the.book.git",
    "https://www.github.com/owner/the.book/",
    "http://github.com/owner/the.book.git",
    "git@github.com:owner/the.book.git",
    "github.com:owner/the.book.git",
    "ssh://git@github.com:22/owner/the.book.git",
    "https://GitHub.com/owner/the.book",
    "https://someone:a-secret@github.com/owner/the.book.git",
    "https://x-access-token:ghs_secret@github.com/owner/the.book",
    "  https://github.com/owner/the.book.git\n",
])
def test_a_remote_of_a_public_host_is_understood_and_its_secrets_left_out(remote):
    assert parse(remote) == Repository("github.com", "owner/the.book")
    assert parse(remote).url == "https://github.com/owner/the.book"


@pytest.mark.parametrize("remote", [
    "", "/srv/git/book.git", "../book", "file:///srv/git/book.git", "C:\\books\\vi", "git://github.com/owner/book.git",
    "http://127.0.0.1:3000/owner/book.git", "http://localhost/owner/book.git", "git@build-machine:owner/book.git",
    "https://git.corp.example/owner/book.git", "https://pypi.org/simple/book", "https://github.com.evil.example/owner/book",
    "https://github.com/owner", "https://github.com/owner/book/tree/main", "https://github.com/owner/..", "https://github.com/own er/book",
    'https://github.com/owner/"><script>', "https://evil.example/github.com/owner/book", "git@github.com:owner",
])
def test_anything_else_is_no_repository(remote):
    assert parse(remote) is None


def test_the_links_of_a_page_on_github():
    repository = parse("git@github.com:owner/book.git")
    assert repository.binder("chapters/elbo") == "https://mybinder.org/v2/gh/owner/book/notebooks?urlpath=lab/tree/chapters/elbo.ipynb"
    assert repository.colab("chapters/elbo") == "https://colab.research.google.com/github/owner/book/blob/notebooks/chapters/elbo.ipynb"


@pytest.mark.parametrize(("remote", "start"), [
    ("https://gitlab.com/a/group/book.git", "https://mybinder.org/v2/gl/a%2Fgroup%2Fbook/HEAD"),
    ("https://codeberg.org/a/book", "https://mybinder.org/v2/git/https%3A%2F%2Fcodeberg.org%2Fa%2Fbook/HEAD"),
])
def test_elsewhere_binder_opens_the_source_and_colab_is_not_offered(remote, start):
    """Colab reads notebooks from GitHub only, and only GitHub runs the workflow that publishes the branch with them."""
    repository = parse(remote)
    assert repository.binder("chapters/elbo") == f"{start}?urlpath=lab/tree/chapters/elbo.md"
    assert repository.colab("chapters/elbo") is None


def test_a_link_for_a_jupyterhub():
    link = urlsplit(parse("https://github.com/owner/book").pull("https://hub.example.edu/", "chapters/elbo"))
    assert link.netloc == "hub.example.edu" and link.path == "/hub/user-redirect/git-pull"
    assert parse_qs(link.query) == {
        "repo": ["https://github.com/owner/book"], "branch": ["notebooks"], "urlpath": ["lab/tree/book/chapters/elbo.ipynb"],
    }


def git(folder, *arguments):
    subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)


def test_the_remote_of_the_checkout_is_found(tmp_path):
    assert addresses.repository(tmp_path) is None, "no checkout"
    git(tmp_path, "init")
    assert addresses.repository(tmp_path) is None, "no remote"
    git(tmp_path, "remote", "add", "origin", "git@github.com:owner/book.git")
    assert addresses.repository(tmp_path) == Repository("github.com", "owner/book")
    git(tmp_path, "remote", "set-url", "origin", "ssh://git@192.168.1.7/srv/book.git")
    assert addresses.repository(tmp_path) is None, "a remote that readers cannot reach"


def test_a_book_inside_another_project_is_not_in_its_place(tmp_path):
    git(tmp_path, "init")
    git(tmp_path, "remote", "add", "origin", "https://github.com/another/project")
    (tmp_path / "book").mkdir()
    assert addresses.repository(tmp_path / "book") is None


def test_a_setting_comes_before_the_remote_and_an_empty_one_says_none(tmp_path, monkeypatch):
    git(tmp_path, "init")
    git(tmp_path, "remote", "add", "origin", "https://github.com/from/git")
    assert addresses.repository(tmp_path, "https://github.com/from/config").path == "from/config"
    monkeypatch.setenv("VILIB_REPOSITORY", "https://github.com/from/environment")
    assert addresses.repository(tmp_path, "https://github.com/from/config").path == "from/environment"
    monkeypatch.setenv("VILIB_REPOSITORY", "")
    assert addresses.repository(tmp_path, "https://github.com/from/config") is None


def test_a_setting_that_cannot_be_meant_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"repository: url: = 'http://localhost/a/b' is no address of a public repository; expected"):
        addresses.repository(tmp_path, "http://localhost/a/b")
    monkeypatch.setenv("VILIB_SITE", "http://127.0.0.1:8000/")
    with pytest.raises(ValueError, match=r"VILIB_SITE, or html: baseurl:, is 'http://127\.0\.0\.1:8000/'; expected the address"):
        addresses.site()


def test_the_site_is_known_from_a_setting_only(monkeypatch):
    assert addresses.site() == ""
    assert addresses.site("https://owner.github.io/book") == "https://owner.github.io/book/"
    monkeypatch.setenv("VILIB_SITE", "https://vi.example.org")
    assert addresses.site("https://owner.github.io/book") == "https://vi.example.org/"
    monkeypatch.setenv("VILIB_SITE", "")
    assert addresses.site("https://owner.github.io/book") == ""


@pytest.mark.parametrize("address", [
    "", "owner.github.io", "ftp://owner.github.io/", "http://localhost/", "http://printer.local/", "http://[::1]/", "http://10.1.2.3/",
    "https://me:secret@owner.github.io/", "https://owner.github.io/?a=b", "file:///home/me/book/", "https://machine/",
])
def test_no_address_on_the_web(address):
    assert not addresses.is_public(address)
