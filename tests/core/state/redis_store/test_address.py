"""URLs: what they say, what is refused, and that nothing of a password is ever repeated."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.model.secrets import Secret
from smartfallback.state.redis_store.address import Kind, parse


@pytest.mark.parametrize(
    ("url", "kind", "servers", "place"),
    [
        ("redis://localhost", Kind.SINGLE, (("localhost", 6379),), "redis://localhost:6379"),
        ("redis://", Kind.SINGLE, (("localhost", 6379),), "redis://localhost:6379"),
        ("redis://:pw@db:7000/3", Kind.SINGLE, (("db", 7000),), "redis://db:7000/3"),
        ("redis://db?db=3", Kind.SINGLE, (("db", 6379),), "redis://db:6379/3"),
        ("redis://[::1]:7000", Kind.SINGLE, (("::1", 7000),), "redis://[::1]:7000"),
        ("rediss://u:pw@db/0", Kind.SINGLE, (("db", 6379),), "rediss://db:6379"),
        ("unix:///run/redis.sock", Kind.SINGLE, (("/run/redis.sock", 0),), "unix:///run/redis.sock"),
        ("unix://:pw@/run/r.sock?db=2", Kind.SINGLE, (("/run/r.sock", 0),), "unix:///run/r.sock?db=2"),
        (
            "redis+sentinel://u:pw@a,b:7/main/2?sentinel_password=s",
            Kind.SENTINEL,
            (("a", 26379), ("b", 7)),
            "redis+sentinel://a:26379,b:7/main/2",
        ),
        ("rediss+cluster://a:1,b", Kind.CLUSTER, (("a", 1), ("b", 6379)), "rediss+cluster://a:1,b:6379"),
    ],
)
def test_each_form_says_where_to_go_and_is_shown_without_credentials(url, kind, servers, place):
    address = parse(url)
    assert (address.kind, address.servers, address.place) == (kind, servers, place)
    assert "pw" not in repr(address)


def test_credentials_and_the_rest_are_read():
    address = parse(
        Secret("redis+sentinel://us%40er:p%2F%23w@a,b/main/5?sentinel_password=sp&sentinel_username=su")
    )
    assert (address.username, address.service, address.database) == ("us@er", "main", 5)
    assert (address.password, address.sentinel_password) == (Secret("p/#w"), Secret("sp"))
    assert address.sentinel_username == "su"
    assert {*address.secrets} == {Secret("p/#w"), Secret("sp")}


def test_tls_has_its_options(tmp_path):
    authority = tmp_path / "ca.pem"
    authority.touch()
    address = parse(f"rediss://db?ssl_ca_certs={authority}&ssl_check_hostname=no&ssl_cert_reqs=optional")
    assert address.tls == {
        "ssl_ca_certs": str(authority),
        "ssl_check_hostname": False,
        "ssl_cert_reqs": "optional",
    }
    assert parse("redis://db").tls is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://db", "begins with redis://"),
        ("localhost:6379", "begins with redis://"),
        ("", "begins with redis://"),
        ("unix+cluster:///x", "begins with redis://"),
        ("redis://a,b", "several hosts"),
        ("redis://a:b", "port is not a number"),
        ("redis://a:70000", "port is not a number"),
        ("redis://a:", "host:port"),
        ("redis://:1", "a host is missing"),
        ("redis://a/x", "database is not a number"),
        ("redis://a/1/2", "too much after the host"),
        ("redis://a/1?db=2", "too much after the host"),
        ("redis://a?socket_timeout=5", "unknown option"),
        ("redis://a?ssl_cert_reqs=none", "need rediss://"),
        ("redis://a?sentinel_password=x", "needs redis+sentinel://"),
        ("rediss://a?ssl_cert_reqs=perhaps", "ssl_cert_reqs is one of"),
        ("rediss://a?ssl_check_hostname=perhaps", "true or false"),
        ("rediss://a?ssl_ca_certs=/no/such/file", "ssl_ca_certs is not there"),
        ("redis+sentinel://a", "name of the service is missing"),
        ("redis+cluster://a/3", "database 0 only"),
        ("unix://", "path of the socket"),
        ("unix://host/path", "path of the socket"),
        ("redis://:p#w@a", "%23"),
        ("redis://[::1", "URL"),
    ],
)
def test_a_mistake_is_named(url, words):
    with pytest.raises(ValueError, match=words.replace("+", r"\+").replace("/", "/")):
        parse(url)


@settings(max_examples=300, deadline=None)
@given(
    password=st.text(
        min_size=6, max_size=30, alphabet=st.characters(codec="utf-8", categories=("L", "N", "P", "S"))
    ),
    form=st.sampled_from(
        [
            "redis://:{}@db:7000/1",
            "redis://{}@db",
            "{}://db",
            "{}",
            "redis+sentinel://u:{}@a,b/main",
            "unix://:{}@/r",
        ]
    ),
)
def test_a_password_that_was_not_escaped_is_never_repeated(password, form):
    text = form.format(password)
    try:
        address = parse(text)
    except ValueError as error:
        said = str(error)
    else:
        said = address.place + repr(address)
    if form.startswith("redis://{}@"):
        return  # that is a user name, unless it has a colon
    assert password not in said


def test_a_url_can_be_checked_without_loading_redis():
    program = (
        "import sys, smartfallback.state.redis_store.address as a; a.parse('redis://x'); "
        "sys.exit('redis' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
