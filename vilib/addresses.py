"""Where the book's repository and its site are, as far as that is known, and the links that follow from it.

The repository: the setting ``VILIB_REPOSITORY``, else ``repository: url:`` in ``_config.yml``, else the remote ``origin`` of
the checkout. The site: ``VILIB_SITE``, else ``html: baseurl:`` in ``_config.yml``. An empty setting says that there is none.
What is not known gives no link. Nor does a host that readers cannot reach: another machine's name, a number, localhost.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

#: Public hosts of repositories, and what mybinder.org calls them.
HOSTS = {"github.com": "gh", "gitlab.com": "gl", "codeberg.org": "git", "bitbucket.org": "git"}
#: The branch on which the workflow of `.github/workflows` publishes the notebooks. It runs on GitHub alone.
BRANCH = "notebooks"
BINDER = "https://mybinder.org/v2"
COLAB = "https://colab.research.google.com/github"

#: git@github.com:owner/name.git
_SCP_LIKE = re.compile(r"^(?:[\w.-]+@)?(?P<host>[\w.-]+):(?!//)(?P<path>[^:]+)$")
_PART = re.compile(r"^(?!\.+$)[\w.-]+$", re.ASCII)


@dataclass(frozen=True)
class Repository:
    """A repository on a public host.  host: of `HOSTS`; path: ``owner/name``, on GitLab perhaps with groups between."""

    host: str
    path: str

    @property
    def url(self) -> str:
        """Where a reader, git and pip find it."""
        return f"https://{self.host}/{self.path}"

    @property
    def branch(self) -> str:
        """The branch with the notebooks; elsewhere than on GitHub nothing publishes one."""
        return BRANCH if self.host == "github.com" else "HEAD"

    def notebook(self, page: str) -> str:
        """The file of a page (``chapters/elbo``) on that branch: its notebook, or the source, which opens as one."""
        return f"{page}.ipynb" if self.host == "github.com" else f"{page}.md"

    def binder(self, page: str) -> str:
        """Opens a page in JupyterLab on mybinder.org, in the image that ``binder/`` describes."""
        provider = HOSTS[self.host]
        name = {"gh": self.path, "gl": quote(self.path, safe=""), "git": quote(self.url, safe="")}[provider]
        return f"{BINDER}/{provider}/{name}/{self.branch}?urlpath={quote(f'lab/tree/{self.notebook(page)}', safe='/')}"

    def colab(self, page: str) -> str | None:
        """Opens a page in Google Colab, which reads notebooks from GitHub; None for another host."""
        return f"{COLAB}/{self.path}/blob/{self.branch}/{self.notebook(page)}" if self.host == "github.com" else None

    def pull(self, hub: str, page: str) -> str:
        """Opens a page on a JupyterHub whose users' servers have nbgitpuller, with a copy of the branch of their own.

        hub: the hub's address, such as ``https://hub.example.edu``.
        """
        folder = self.path.rsplit("/", 1)[-1]
        wanted = {"repo": self.url, "urlpath": f"lab/tree/{folder}/{self.notebook(page)}"}
        if self.branch != "HEAD":
            wanted["branch"] = self.branch
        return f"{hub.rstrip('/')}/hub/user-redirect/git-pull?{urlencode(wanted)}"


def parse(remote: str) -> Repository | None:
    """The repository that a git remote names; None unless it is an http, https or ssh address of a host in `HOSTS`.

    A name, a password or a token in the address is left out.

    >>> parse("git@github.com:someone/book.git").url
    'https://github.com/someone/book'
    >>> parse("http://127.0.0.1:3000/someone/book.git") is None
    True
    """
    remote = remote.strip()
    if "://" in remote:
        parts = urlsplit(remote)
        host, path = (parts.hostname or "", parts.path) if parts.scheme in ("http", "https", "ssh") else ("", "")
    else:
        found = _SCP_LIKE.match(remote)
        host, path = (found["host"], found["path"]) if found else ("", "")
    host = host.lower().removeprefix("www.")
    names = path.strip("/").removesuffix(".git").split("/")
    enough = len(names) == 2 or (host == "gitlab.com" and len(names) > 2)
    if host not in HOSTS or not enough or not all(map(_PART.match, names)):
        return None
    return Repository(host, "/".join(names))


def repository(folder: Path, configured: str = "") -> Repository | None:
    """The repository of the book in `folder`.  configured: what ``_config.yml`` says, "" where it says nothing.

    Raises ValueError where a setting, and not merely git, names a repository that is none.
    """
    for name, value in (("VILIB_REPOSITORY", os.environ.get("VILIB_REPOSITORY")), ("repository: url:", configured or None)):
        if value is not None:
            found = parse(value)
            if found is None and value.strip():
                raise ValueError(
                    f"{name} = {value!r} is no address of a public repository; expected one such as "
                    f"https://github.com/owner/name on {', '.join(HOSTS)}, or nothing for a book without links"
                )
            return found
    return parse(_git(folder, "config", "--get", "remote.origin.url")) if _is_checkout(folder) else None


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    except OSError:                                                                 # no git here
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _is_checkout(folder: Path) -> bool:
    """Whether `folder` is the top of a checkout: a book that lies inside another project's is not in that project's place."""
    top = _git(folder, "rev-parse", "--show-toplevel")
    return bool(top) and Path(top).resolve() == Path(folder).resolve()


def site(configured: str = "") -> str:
    """The address of the published book, with a last slash; "" where it is not known.

    configured: what ``_config.yml`` says. Raises ValueError where that, or ``VILIB_SITE``, is no address on the web.
    """
    value = os.environ.get("VILIB_SITE", configured).strip()
    if value and not is_public(value):
        raise ValueError(
            f"VILIB_SITE, or html: baseurl:, is {value!r}; expected the address at which readers find the book, "
            "such as https://owner.github.io/name/, or nothing"
        )
    return value.rstrip("/") + "/" if value else ""


def is_public(address: str) -> bool:
    """Whether an address is one on the web: http or https, a host with a name and a domain, no password.

    >>> is_public("https://owner.github.io/name/"), is_public("http://localhost:8000/"), is_public("http://10.0.0.1/")
    (True, False, False)
    """
    parts = urlsplit(address)
    host = parts.hostname or ""
    try:
        ip_address(host)
    except ValueError:
        named = re.fullmatch(r"[\w-]+(\.[\w-]+)+", host) and not host.endswith((".local", ".localhost", ".internal", ".lan"))
        return bool(parts.scheme in ("http", "https") and named and parts.username is None and not (parts.query or parts.fragment))
    return False
